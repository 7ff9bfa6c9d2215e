"""Duration of whole processes, from start to exit, compared with the imports that they need."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from benchmarks import measure
from mnist_lightning.data import sources

PYTHON = [sys.executable]
PROGRAM = [*PYTHON, "-m", "mnist_lightning"]
FIT = [*PROGRAM, "fit", "--model", "MLP", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
COMMANDS = {
    "import torch": [*PYTHON, "-c", "import torch"],
    "import lightning.pytorch": [*PYTHON, "-c", "import lightning.pytorch"],
    "--help": [*PROGRAM, "--help"],
    "test": [*PROGRAM, "test", "--trainer.accelerator", "cpu"],
    "predict": [*PROGRAM, "predict", "--trainer.accelerator", "cpu"],
    "predict, one image": [*PROGRAM, "predict", "--trainer.accelerator", "cpu", "--images", "digit.png"],
    "fit, 1 batch": [*FIT, "--trainer.limit_train_batches", "1"],
}


def run(command: Sequence[str], folder: str) -> Callable[[], float]:
    """Returns a function that runs a command and returns the seconds it took."""

    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - start

    return seconds


def main() -> None:
    """Measures the commands in turn."""
    args = measure.parse("Duration of whole processes")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(FIT, cwd=folder, check=True, capture_output=True)
        images, _ = sources.load("MNIST", "test", Path(folder))
        Image.fromarray(255 - images[0].numpy()).resize((280, 280)).save(Path(folder, "digit.png"))
        seconds = measure.alternate({name: run(command, folder) for name, command in COMMANDS.items()}, args.repeats)
    rows = [
        {
            "command": name,
            "seconds": measure.summarize(values),
            "/ import lightning.pytorch": measure.ratio(values, seconds["import lightning.pytorch"]),
        }
        for name, values in seconds.items()
    ]
    measure.report("startup", rows, ["command", "seconds", "/ import lightning.pytorch"], args.output)


if __name__ == "__main__":
    main()
