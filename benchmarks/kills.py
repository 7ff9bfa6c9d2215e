"""Kills `fit` processes at random moments, and checks that they resume exactly: `python -m benchmarks.kills`.

All processes of a run are killed with SIGKILL, and the run is resumed with `fit --ckpt_path last`, until it is
finished. Then its folder is compared, bit by bit, with that of an uninterrupted run.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from benchmarks import measure

EMA = "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.99}}]"
MLP = ["--model=MLP", f"--trainer.callbacks={EMA}"]
CNN = ["--model=CNN", "--model.init_args.dropout=0.2", f"--trainer.callbacks={EMA}"]
RANDOM = ["--data.augmentation.rotation=10", "--data.augmentation.elastic=1", "--data.augmentation.noise=0.1"]
SHORT = ["--trainer.limit_train_batches=60", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
MAX_STEPS = ["--trainer.max_steps=330", "--data.num_workers=1", "--trainer.check_val_every_n_epoch=2"]
VARIANTS = {
    "MLP with EMA": MLP,
    "CNN with EMA": CNN,
    "MLP with EMA, two processes": MLP + TWO,
    "CNN with EMA, two processes": CNN + TWO,
    "MLP with max_steps, a DataLoader worker and validation every other epoch": ["--model=MLP", *MAX_STEPS],
}
"""Flags of each kind of run. All have dropout and augmentation, and run on the CPU."""
RUN = Path("lightning_logs") / "version_0"


def read_events(run_dir: Path) -> dict[str, list[tuple[int, Any]]]:
    """Returns what TensorBoard shows of a run: the steps and values of each scalar and image, and the settings."""
    events = EventAccumulator(str(run_dir), {"images": 0, "scalars": 0}).Reload()  # 0: all, not a sample
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    images = {tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)] for tag in tags["images"]}
    found = events.summary_metadata.get("_hparams_/session_start_info")
    settings = [(0, HParamsPluginData.FromString(found.plugin_data.content))] if found else []
    return {**scalars, **images, "settings": settings}


def is_same(first: Any, second: Any) -> bool:
    """Returns whether two checkpoints are bit-identical."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)


def differences(first: Path, second: Path) -> list[str]:
    """Returns the files in which two run folders differ, apart from times and paths."""
    found = []
    for name in ("metrics.csv", "figures/curves.png"):
        one, other = (path.read_bytes() if path.exists() else None for path in (first / name, second / name))
        found += [name] if one != other else []
    found += ["events"] if read_events(first) != read_events(second) else []
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (first, second))
        found += [] if is_same(one, other) else [name]
    return found


def run(folder: Path, flags: list[str], kill_after: float | None = None) -> tuple[int, str]:
    """Runs the program in a folder, and kills all its processes if it takes longer than `kill_after` seconds.

    Returns:
        Its exit status, -9 if it was killed, and its output.
    """
    command = [sys.executable, "-m", "mnist_lightning", *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output = process.communicate(timeout=kill_after)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0]
    return process.returncode, output


def train_uninterrupted(folder: Path, flags: list[str]) -> float:
    """Trains without interruption; returns the duration of the `fit` process in seconds."""
    folder.mkdir(parents=True)
    begin = time.monotonic()
    status, output = run(folder, ["fit", *flags])
    seconds = time.monotonic() - begin
    assert status == 0, output
    return seconds


def train_killed(
    folder: Path, flags: list[str], seconds: float, max_kills: int, generator: random.Random
) -> tuple[int, str, float]:
    """Trains, and kills and resumes the run several times.

    Args:
        folder: Where to train.
        flags: Flags of `fit`.
        seconds: Duration of an uninterrupted run.
        max_kills: After this number of kills, the run is left alone.
        generator: Decides when to kill.

    Returns:
        The number of kills; the output of a `fit` that failed to resume, if any; and the duration of an uninterrupted
        run, which is updated if this run was faster.
    """
    folder.mkdir(parents=True)
    kills = 0
    while True:
        is_resumable = (folder / RUN / "checkpoints" / "last.ckpt").exists()
        if not is_resumable and (folder / RUN).exists():
            (folder / RUN).rename(folder / f"killed-{kills}")  # killed before its first checkpoint
        kill_after = generator.uniform(0, 1.1 * seconds) if kills < max_kills else None
        begin = time.monotonic()
        status, output = run(folder, ["fit", *(["--ckpt_path=last"] if is_resumable else flags)], kill_after)
        kills += status == -signal.SIGKILL
        if status == 0:
            return kills, "", seconds if is_resumable else min(seconds, time.monotonic() - begin)
        if status != -signal.SIGKILL:
            return kills, output, seconds


def main() -> None:
    """Measures all variants; exits with status 1 if a run was not resumed exactly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=52, help="of all variants, at least (default: 52)")
    parser.add_argument("--max_kills", type=int, default=5, help="of one run (default: 5)")
    parser.add_argument(
        "--variants", type=int, nargs="+", default=[*range(len(VARIANTS))], help="indices (default: all)"
    )
    parser.add_argument("--epochs", type=int, default=6, help="of each run (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="decides when to kill (default: 0)")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    rows = []
    for name in [list(VARIANTS)[number] for number in args.variants]:
        flags = [*VARIANTS[name], *RANDOM, *SHORT, f"--trainer.max_epochs={args.epochs}"]
        outcomes: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as parent:
            seconds = train_uninterrupted(Path(parent) / "uninterrupted", flags)
            for number in itertools.count():
                if outcomes.total() >= args.kills / len(args.variants):
                    break
                folder = Path(parent) / f"killed-{number}"
                kills, problem, seconds = train_killed(folder, flags, seconds, args.max_kills, generator)
                if problem:
                    outcome = "not resumable"
                    print(f"{name}: {problem}")
                else:
                    found = differences(Path(parent) / "uninterrupted" / RUN, folder / RUN)
                    outcome = "different" if found else "identical"
                    print(f"{name}: killed {kills} times, {outcome}", *found, flush=True)
                outcomes[outcome] += kills
        rows.append({"variant": name, "kills": outcomes.total()})
        rows[-1] |= {outcome: outcomes[outcome] for outcome in ("identical", "different", "not resumable")}
    columns = ["variant", "kills", "identical", "different", "not resumable"]
    measure.report("kills", rows, columns, args.output)
    if any(row["different"] or row["not resumable"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
