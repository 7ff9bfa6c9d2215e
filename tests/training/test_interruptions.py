"""Real signals to real processes: runs end cleanly, and leave no process behind."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mnist_lightning.__main__ import main
from tests.conftest import RUN, enable_ctrl_c

pytestmark = pytest.mark.slow

FIT = [sys.executable, "-m", "mnist_lightning", "fit", "--model=MLP", "--trainer.max_epochs=200"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=30"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
LAST = RUN / "checkpoints" / "last.ckpt"


def start(flags: list[str], **variables: str) -> subprocess.Popen[str]:
    """Starts a long run in a session of its own, and waits for its first whole epoch."""
    process = subprocess.Popen(
        flags,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
    )
    end = time.monotonic() + 90
    while not LAST.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for the end of a run, at most a minute, and returns its output; no process may be left."""
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
def test_signal_ends_training_cleanly(number: signal.Signals, flags: list[str]) -> None:
    process = start([*FIT, *QUIET, *flags])
    process.send_signal(number)
    begin = time.monotonic()
    output = finish(process)
    assert time.monotonic() - begin < 30
    assert process.returncode == 128 + number
    assert f"resume      python -m mnist_lightning fit --ckpt_path {RUN}/checkpoints/last.ckpt" in output
    assert "Traceback" not in output
    assert torch.load(LAST, weights_only=True)["global_step"] > 0
    assert (RUN / "figures" / "curves.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_startup_leaves_no_process(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*FIT, *QUIET, *TWO],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
    )
    while not children(process):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)  # one waits for the other, which is importing
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    finish(process)
    assert process.returncode in (128 + number, -number, -signal.SIGKILL)


SLOW = """
import sys
import time
from mnist_lightning.__main__ import main
from mnist_lightning.models import MLP
def wait():
    print("begun", flush=True)
    time.sleep(60)
class Dying:
    def __del__(self):
        wait()  # Python drops an exception in here
def step(self, batch, batch_idx):
    if "predict" in sys.argv:
        Dying()
    wait()
MLP.test_step = MLP.predict_step = step
main()
"""


@pytest.mark.parametrize(("command", "number"), [("test", signal.SIGTERM), ("predict", signal.SIGINT)])
def test_signal_ends_evaluation_cleanly(command: str, number: signal.Signals) -> None:
    Path("mine.py").write_text(SLOW)
    main([*FIT[3:5], "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"])
    process = subprocess.Popen(
        [sys.executable, "mine.py", command, "--trainer.accelerator=cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
    )
    assert process.stdout
    output = ""
    while "begun" not in output:
        output += process.stdout.readline()
    process.send_signal(number)
    output = finish(process)
    assert process.returncode == 128 + number
    assert "stopped     nothing was written" in output
    assert "Traceback" not in output
    assert not (RUN / "test").exists() and not (RUN / "predictions.csv").exists()


def test_killed_worker_ends_the_run() -> None:
    process = start([*FIT, *QUIET, *TWO])
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1
    assert "error: worker process 1 was killed by signal 9\n" in output
    assert "Traceback" not in output


def test_workers_end_when_the_first_process_is_killed() -> None:
    process = start([*FIT, *QUIET, "--trainer.devices=3", "--trainer.strategy=ddp"])
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while subprocess.run(["pgrep", "--session", str(process.pid)], capture_output=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.2)
    finish(process)


def test_error_of_a_worker_is_shown() -> None:
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
    assert "error: worker process 1 failed with the error above\n" in output
    assert "gloo" not in output


def test_two_machines_train_as_two_processes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun leaves a machine's one process all of its cores
    config_flags = ["--model=MLP", "--trainer.max_epochs=1", "--trainer.strategy=ddp", "--trainer.precision=32-true"]
    config_flags += QUIET
    subprocess.run([*FIT[:4], *config_flags, "--trainer.devices=2"], check=True, capture_output=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    place = ["--master_addr=127.0.0.1", "--master_port=29531"]
    fit = ["-m", "mnist_lightning", "fit", *config_flags, "--trainer.devices=1", "--trainer.num_nodes=2"]
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


def test_slurm_signal_requeues_the_job_which_resumes(tmp_path: Path) -> None:
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
