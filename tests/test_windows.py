"""Nothing on the way of `fit`, `test`, `predict`, `tune` and `export` needs what only POSIX has."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
import signal
import sys
import types
from pathlib import Path

import lightning.pytorch.cli
import onnx
import onnxruntime
import onnxscript
import optuna
import psutil
import torch.utils.tensorboard

MISSING = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 fork getpgid getuid killpg setsid uname"


def open_file(path, *args, **options):
    if Path(path).is_dir():
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *args, **options)


for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module in (os, signal):  # the libraries, which have these modules already, know Linux when they see it
    copy = types.ModuleType(module.__name__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in MISSING.split()})
    sys.modules[module.__name__] = copy
sys.modules["os"].open = open_file

from mnist_lightning.__main__ import main
from mnist_lightning.data.sources import SOURCES, File, Source

files = {split: (File(f"{split}-images"), File(f"{split}-labels")) for split in ("train", "test")}
SOURCES["Tiny"] = Source(tuple("0123456789"), 0.2, 0.3, "Tiny", files)
Path("space.yaml").write_text("model.init_args.learning_rate: {low: 1e-3, high: 1e-2}")
tiny = ["--model=MLP", "--model.init_args.hidden_sizes=[24]", "--data.dataset=Tiny", "--trainer.max_epochs=1"]
tiny += ["--trainer.accelerator=cpu"]
main(["fit", *tiny])
main(["test"])
main(["predict"])
main(["export"])
main(["tune", "--space=space.yaml", "--trials=2", "--finalists=1", "--seeds=1", *tiny])
"""


@pytest.mark.slow
def test_commands_run_without_posix(tiny: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = Path("lightning_logs/version_0")
    written = [run / "checkpoints/last.ckpt", run / "test/metrics.json", run / "predictions.csv", Path("model.onnx")]
    assert all(path.exists() for path in [*written, Path("tuning/fit/best.yaml")])
