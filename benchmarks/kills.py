"""Kills real `fit` processes at random moments, and compares what becomes of them: `python -m benchmarks.kills`.

A run is killed hard, with all its processes, and resumed by `fit --ckpt_path last`, until it comes to its end. Then its
folder and its test predictions are compared to those of a run that nobody disturbed, to the last bit.
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

from benchmarks import measure

EMA = "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.99}}]"
MLP = ["--model=MLP", f"--trainer.callbacks={EMA}"]
CNN = ["--model=CNN", "--model.init_args.dropout=0.2", f"--trainer.callbacks={EMA}"]
RANDOM = ["--data.augmentation.rotation=10", "--data.augmentation.elastic=1", "--data.augmentation.noise=0.1"]
SHORT = ["--trainer.max_epochs=6", "--trainer.limit_train_batches=60", "--trainer.enable_progress_bar=false"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
OTHERWISE = ["--trainer.max_steps=330", "--data.num_workers=1", "--trainer.check_val_every_n_epoch=2"]
VARIANTS = {
    "MLP, averaged": MLP,
    "CNN, averaged": CNN,
    "MLP, averaged, two processes": MLP + TWO,
    "CNN, averaged, two processes": CNN + TWO,
    "MLP, so many steps, loaded by another process, validated each second epoch": ["--model=MLP", *OTHERWISE],
}
"""What is trained, with dropout and augmentation; each on the CPU."""
PATHS = {"dirpath", "best_model_path", "last_model_path", "kth_best_model_path"}
"""What a checkpoint says about its place."""
RUN = Path("lightning_logs") / "version_0"


def shown(run_dir: Path) -> dict[str, list[tuple[int, Any]]]:
    """Returns what TensorBoard shows of a run: steps with scores and images."""
    events = EventAccumulator(str(run_dir), {"images": 0, "scalars": 0}).Reload()  # all of them, and no sample
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    images = {tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)] for tag in tags["images"]}
    scalars.pop("epoch", None)  # Lightning writes it twice each time
    return {**scalars, **images}


def is_same(first: Any, second: Any) -> bool:
    """Tells whether two checkpoints hold the same, to the last bit, wherever they lie."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            is_same(list(first[name].values()), list(second[name].values()))  # whose keys are paths
            if name == "best_k_models"
            else is_same(first[name], second[name])
            for name in first.keys() - PATHS
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)


def differences(first: Path, second: Path) -> list[str]:
    """Returns in what two runs' folders differ, beside times and places."""
    found = []
    for name in ("metrics.csv", "predictions.csv", "figures/curves.png"):
        one, other = (path.read_bytes() if path.exists() else None for path in (first / name, second / name))
        found += [name] if one != other else []
    found += ["events"] if shown(first) != shown(second) else []
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (first, second))
        found += [] if is_same(one, other) else [name]
    return found


def run(folder: Path, flags: list[str], kill_after: float | None = None) -> tuple[int, str]:
    """Runs the program in a folder, and kills it with all its processes if it takes longer than that.

    Returns:
        Its exit status, -9 if it was killed, and what it said.
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


def train_whole(folder: Path, flags: list[str]) -> float:
    """Trains without a disturbance and predicts; returns the seconds that training took."""
    folder.mkdir(parents=True)
    begin = time.monotonic()
    status, output = run(folder, ["fit", *flags])
    seconds = time.monotonic() - begin
    assert status == 0, output
    predict(folder)
    return seconds


def predict(folder: Path) -> None:
    """Writes the run's test predictions into its folder."""
    status, output = run(folder, ["predict", "--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt"])
    assert status == 0, output


def train_killed(
    folder: Path, flags: list[str], seconds: float, most: int, chance: random.Random
) -> tuple[int, str, float]:
    """Trains, and kills up to so many times.

    Returns:
        How often it was killed; why it could not go on, if so; and the seconds of a whole run, which may now be less.
    """
    folder.mkdir(parents=True)
    kills = 0
    while True:
        has_begun = (folder / RUN / "checkpoints" / "last.ckpt").exists()
        if not has_begun and (folder / RUN).exists():
            (folder / RUN).rename(folder / f"killed-{kills}")  # before it was asked to do anything
        kill_after = chance.uniform(0, 1.1 * seconds) if kills < most else None
        begin = time.monotonic()
        status, output = run(folder, ["fit", *(["--ckpt_path=last"] if has_begun else flags)], kill_after)
        kills += status == -signal.SIGKILL
        if status == 0:
            return kills, "", seconds if has_begun else min(seconds, time.monotonic() - begin)
        if status != -signal.SIGKILL:
            return kills, output, seconds


def main() -> None:
    """Kills, resumes, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=52, help="of all variants together, at least (default: 52)")
    parser.add_argument("--most", type=int, default=5, help="of one run (default: 5)")
    parser.add_argument("--variants", type=int, nargs="+", default=list(range(len(VARIANTS))), help="which of them")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    rows = []
    for name in [list(VARIANTS)[number] for number in args.variants]:
        flags = [*VARIANTS[name], *RANDOM, *SHORT, "--trainer.accelerator=cpu"]
        outcomes: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as place:
            seconds = train_whole(Path(place) / "whole", flags)
            for number in itertools.count():
                if outcomes.total() >= args.kills / len(args.variants):
                    break
                folder = Path(place) / f"disturbed-{number}"
                kills, problem, seconds = train_killed(folder, flags, seconds, args.most, chance)
                if problem:
                    outcome = "unloadable"
                    print(f"{name}: {problem}")
                else:
                    predict(folder)
                    found = differences(Path(place) / "whole" / RUN, folder / RUN)
                    outcome = "not exactly" if found else "exactly"
                    print(f"{name}: killed {kills} times, then {outcome} the same", *found, flush=True)
                outcomes[outcome] += kills
        rows.append({"variant": name, "kills": outcomes.total()})
        rows[-1] |= {outcome: outcomes[outcome] for outcome in ("exactly", "not exactly", "unloadable")}
    columns = ["variant", "kills", "exactly", "not exactly", "unloadable"]
    measure.report("kills", rows, columns, args.output)
    if any(row["not exactly"] or row["unloadable"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
