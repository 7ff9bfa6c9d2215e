"""What befalls real runs: signals, dead workers, full disks, divergence. Each is done, not imitated."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mnist_lightning.models import Classifier
from tests.conftest import MLP, RUN, SMALL, line_of

FIT = [sys.executable, "-m", "mnist_lightning", "fit", "--model=MLP", "--trainer.max_epochs=200"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=30"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
LAST = RUN / "checkpoints" / "last.ckpt"


def hear_ctrl_c() -> None:
    """Lets a process hear Ctrl-C; those that a shell has started in the background don't, and hand that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(flags: list[str], **variables: str) -> subprocess.Popen[str]:
    """Starts a long run in a session of its own, and waits for its first whole epoch."""
    process = subprocess.Popen(
        flags,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    end = time.monotonic() + 90
    best = LAST.with_name("best.ckpt")  # which is written before the epoch's last.ckpt
    while not (best.exists() and best.stat().st_mtime < LAST.stat().st_mtime):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Waits until a run has ended, for a minute at most, and returns what it said; no process is left."""
    try:
        output = process.communicate(timeout=60)[0]
    finally:
        left = subprocess.run(["pgrep", "--session", str(process.pid)], capture_output=True, text=True).stdout
        for number in left.split():
            os.kill(int(number), signal.SIGKILL)
    assert left == ""
    return output


def children(process: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(["pgrep", "--parent", str(process.pid)], capture_output=True, text=True).stdout
    return [int(number) for number in listed.split()]


@pytest.mark.parametrize("flags", [[], TWO], ids=["one process", "two"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(number: signal.Signals, flags: list[str]) -> None:
    process = start([*FIT, *QUIET, *flags])
    process.send_signal(number)
    begin = time.monotonic()
    output = finish(process)
    assert time.monotonic() - begin < 30
    assert process.returncode == 128 + number
    assert "goes on     python -m mnist_lightning fit --ckpt_path last" in output
    assert "Traceback" not in output
    assert torch.load(LAST, weights_only=True)["global_step"] > 0
    assert (RUN / "figures" / "curves.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_among_processes_that_look_for_each_other_leaves_none(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*FIT, *QUIET, *TWO],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    while not children(process):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)  # the other one imports, and this one waits for it
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    finish(process)
    assert process.returncode in (128 + number, -number)


SLOW = """
import time
from mnist_lightning.__main__ import main
from mnist_lightning.models import MLP
class Slow(MLP):
    def predict_step(self, batch, batch_idx):
        print("begun", flush=True)
        time.sleep(60)
    test_step = predict_step
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_signal_ends_what_uses_a_model_in_order(command: str, number: signal.Signals) -> None:
    Path("mine.py").write_text(SLOW)
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    subprocess.run([sys.executable, "mine.py", "fit", "--model=mine.Slow", *limits], check=True, capture_output=True)
    process = subprocess.Popen(
        [sys.executable, "mine.py", command, "--model=mine.Slow", "--trainer.accelerator=cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout
    output = ""
    while "begun" not in output:
        output += process.stdout.readline()
    process.send_signal(number)
    output = finish(process)
    assert process.returncode == 128 + number
    assert "stopped     with nothing written" in output
    assert "Traceback" not in output
    assert not (RUN / "test").exists() and not (RUN / "predictions.csv").exists()


def test_a_killed_loader_is_told() -> None:
    process = start([*FIT, *QUIET, "--data.num_workers=1"])
    os.kill(children(process)[0], signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1
    assert "error: a process that loads batches has ended (DataLoader worker (pid" in output
    assert "; go on with python -m mnist_lightning fit --ckpt_path last" in output
    assert "RuntimeError" not in output  # as the DataLoader's is; multiprocessing may add something of its own


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    process = start([*FIT, *QUIET])
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in finish(process)
    torch.load(LAST, weights_only=True)


def test_a_killed_worker_takes_the_run_down() -> None:
    process = start([*FIT, *QUIET, *TWO])
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1
    assert "error: process 1 of 1 beside this one was ended by signal 9; go on with python -m" in output
    assert "Traceback" not in output


def test_workers_end_when_the_first_process_is_killed() -> None:
    process = start([*FIT, *QUIET, "--trainer.devices=3", "--trainer.strategy=ddp"])
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while subprocess.run(["pgrep", "--session", str(process.pid)], capture_output=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert "Traceback" not in finish(process)


def test_a_worker_s_own_error_stands_on_top() -> None:
    Path("mine.py").write_text(
        "from mnist_lightning.__main__ import main\n"
        "from mnist_lightning.models import MLP\n"
        "class Bad(MLP):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        if self.global_rank and self.current_epoch == 2:\n"
        "            raise ZeroDivisionError('my own mistake')\n"
        "        return super().training_step(batch, batch_idx)\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    flags = ["--model=mine.Bad", "--trainer.max_epochs=200"]
    process = start([sys.executable, "mine.py", "fit", *flags, *QUIET, *TWO])
    output = finish(process)
    assert process.returncode == 1
    assert "ZeroDivisionError: my own mistake" in output
    assert "error: process 1 of 1 beside this one failed with the error above; go on with" in output
    assert "gloo" not in output


def test_two_machines_train_as_two_processes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun leaves a machine's one process all of its cores
    recipe = ["--model=MLP", "--trainer.max_epochs=1", "--trainer.strategy=ddp", *QUIET]
    subprocess.run([*FIT[:4], *recipe, "--trainer.devices=2"], check=True, capture_output=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    place = ["--master_addr=127.0.0.1", "--master_port=29531"]
    fit = ["-m", "mnist_lightning", "fit", *recipe, "--trainer.devices=1", "--trainer.num_nodes=2"]
    machines = [
        subprocess.Popen(
            [*torchrun, f"--node_rank={rank}", *place, *fit],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [machine.communicate(timeout=100)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    one, two = (torch.load(f"lightning_logs/version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (0, 1))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])


def test_slurm_s_signal_requeues_the_job_which_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    job = {f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")}
    job |= {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "digits", "SLURM_NODELIST": "localhost"}
    job["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = [*FIT, *QUIET, "--trainer.max_epochs=20"]
    process = start(command, **job)
    process.send_signal(signal.SIGUSR1)
    end = time.monotonic() + 30
    while not Path("requeued").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert Path("requeued").read_text() == "requeue 7\n"
    process.kill()
    finish(process)
    saved = torch.load("hpc_ckpt_1.ckpt", weights_only=True)["global_step"]
    assert saved > 0
    again = subprocess.run(command, env={**os.environ, **job}, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    rows = list(csv.DictReader(Path("lightning_logs/version_1/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == [str(number) for number in range(20)]
    assert float(rows[-1]["step"]) == 20 * 30 - 1


def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsync, count = os.fsync, 0

    def full_after_a_while(descriptor: int) -> None:
        nonlocal count
        count += LAST.exists()
        if count > 12:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_after_a_while)
        line = line_of(["fit", *SMALL, *MLP, "--trainer.max_epochs", "9"], capsys)
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert line.count("\n") == 1
    assert torch.load(LAST, weights_only=True)["epoch"] < 8
    assert sorted(path.name for path in LAST.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(("rate", "told"), [("1e6", "training has failed, for after epoch 1 its "), ("1e30", "nan")])
def test_diverged_training_stops_and_keeps_what_was_good(
    tiny: Path, capsys: pytest.CaptureFixture[str], rate: str, told: str
) -> None:
    many = ["--data.batch_size", "3", "--model.init_args.dropout", "0"]
    line = line_of(["fit", *SMALL, *MLP, *many, f"--model.init_args.learning_rate={rate}"], capsys)
    assert told in line
    assert f"lower --model.init_args.learning_rate {float(rate):g}, try {float(rate) / 10:.2g}\n" in line
    assert torch.load(LAST, weights_only=True)["global_step"] == 0  # what it began with
    assert not (RUN / "checkpoints" / "best.ckpt").exists()


class Blind(nn.Module):
    """Sees nothing."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0 * images


class Constant(Classifier):
    """Can learn how common a class is, and no more."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(Blind(), nn.Flatten(), nn.Linear(784, 10))


def test_a_model_that_knows_one_class_stops(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mnist_lightning.callbacks.PATIENCE", 3)
    line = line_of(
        ["fit", *SMALL, "--model", "tests.test_faults.Constant", "--model.init_args.learning_rate=1e-9"], capsys
    )
    assert re.search("after epoch 1 it takes every validation image for a '[0-9]'; lower --model.init_args.lea", line)


def test_a_run_records_what_repeats_it(run: Path) -> None:
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["seed"] == "0"
    assert start["threads"] == torch.get_num_threads()
    assert start["versions"]["torch"] == version("torch")
    assert (start["device"], start["processes"], start["git"]) == ("cpu", 1, None)
    assert start["command"] == ["mnist_lightning"]
