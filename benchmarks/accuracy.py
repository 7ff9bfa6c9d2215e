"""Accuracy of a recipe over seeds, one JSON file a run: `python -m benchmarks.accuracy configs/cnn.yaml --seeds 5`.

Each run is a `fit` of its own and is judged at its fixed last epoch; the test images are looked at once, when it is
finished, and not at all with `--validation_only`, which is how recipes are chosen. Runs that have their file are
skipped, and several of these programs share the list, here or on machines with a common folder.
"""

import argparse
import contextlib
import csv
import fcntl
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks import measure
from mnist_lightning import checkpoints
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.ensemble import rebuild
from mnist_lightning.metrics import expected_calibration_error
from mnist_lightning.models import normalize
from mnist_lightning.sources import DISPUTED

RESULTS_DIR = measure.RESULTS_DIR / "accuracy"
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for a 95 % interval with 1, 2, … degrees of freedom."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Tells whether a run is this program's to do; the claim ends with the program, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def last_checkpoint(folder: Path) -> Path:
    """Returns the checkpoint of a run's fixed last epoch."""
    return folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def fit(recipe: str, folder: Path, flags: list[str]) -> float:
    """Trains in a process of its own; returns the seconds that training took."""
    shutil.rmtree(folder / "lightning_logs", ignore_errors=True)  # of a run that was cut off
    command = [sys.executable, "-m", "mnist_lightning", "fit", "--config", recipe, *flags]
    done = subprocess.run([*command, "--trainer.default_root_dir", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = re.search(r"trained in +([\d.]+) s", done.stdout)
    assert found, done.stdout
    return float(found[1])


def train(recipe: str, seed: int, folder: Path, flags: list[str]) -> dict[str, Any]:
    """Trains with one seed; returns its validation scores."""
    seconds = fit(recipe, folder, ["--seed_everything", str(seed), *flags])
    path = last_checkpoint(folder)
    with (path.parent.parent / "metrics.csv").open() as stream:
        last = [row for row in csv.DictReader(stream) if row["val/accuracy"]][-1]
    return {
        "val accuracy": float(last["val/accuracy"]),
        "val loss": float(last["val/loss"]),
        "training s, beside others": seconds,
        "parameters": sum(p.numel() for p in rebuild(checkpoints.read(path)).parameters()),
    }


def time_alone(recipe: str, folder: Path) -> dict[str, Any]:
    """Returns the seconds that a recipe takes with the machine to itself, from those of its second and third epoch."""
    one, three = (fit(recipe, folder, ["--trainer.max_epochs", str(number)]) for number in (1, 3))
    num_epochs = yaml.safe_load(Path(recipe).read_text())["trainer"]["max_epochs"]
    return {
        "epochs": num_epochs,
        "seconds an epoch": (three - one) / 2,
        "seconds": one + (num_epochs - 1) * (three - one) / 2,
    }


def predict(path: Path, images: Tensor) -> Tensor:
    """Returns a checkpoint's probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8."""
    stored = checkpoints.read(path)
    model, options = rebuild(stored), stored.model_options
    with torch.inference_mode():
        batches = [model(normalize(part, options["mean"], options["std"])).softmax(1) for part in images.chunk(10)]
    return torch.cat(batches)


def score(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Returns what the test images say about probabilities `(N, C)`, given labels `(N,)`."""
    confidences, predictions = probabilities.max(1)
    is_right = predictions == labels
    wrong = (~is_right).nonzero().squeeze(1).tolist()
    return {
        "test accuracy": is_right.float().mean().item(),
        "test loss": F.nll_loss(probabilities.log(), labels.long()).item(),
        "ECE": expected_calibration_error(confidences, is_right),
        "error without disputed labels": len(set(wrong) - set(DISPUTED)) / (len(labels) - len(DISPUTED)),
        "wrong": wrong,
    }


def describe(values: list[float]) -> str:
    """Returns percentages as mean ± standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.2%}" if len(values) < 2 else f"{mean:.2%} ± {100 * statistics.stdev(values):.2f}"


def summarise(results_dir: Path, name: str, stage: str) -> dict[str, str] | None:
    """Returns the row of a recipe's runs; None if there are none of this stage."""
    paths = sorted(results_dir.glob(f"{name}-*.json"), key=lambda path: (len(path.name), path.name))
    runs = [run for path in paths if f"{stage} accuracy" in (run := json.loads(path.read_text()))]
    if not runs:
        return None
    accuracies = [run[f"{stage} accuracy"] for run in runs]
    row = {"recipe": name, f"{stage} accuracy": describe(accuracies)}
    if 1 < len(runs) <= len(T_975) + 1:
        margin = T_975[len(runs) - 2] * statistics.stdev(accuracies) / len(runs) ** 0.5
        mean = statistics.mean(accuracies)
        row["95 % interval"] = f"{100 * (mean - margin):.2f} to {100 * (mean + margin):.2f}"
    row["each seed"] = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    row["loss"] = f"{statistics.mean(run[f'{stage} loss'] for run in runs):.4f}"
    if stage == "test":
        row["ECE"] = f"{statistics.mean(run['ECE'] for run in runs):.2%}"
        row["undisputed errors"] = f"{statistics.mean(run['error without disputed labels'] for run in runs):.2%}"
    row["parameters"] = f"{runs[0]['parameters']:,}"
    timed = results_dir / f"{name}-seconds.json"
    row["seconds"] = f"{json.loads(timed.read_text())['seconds']:.0f}" if timed.exists() else ""
    return row


def compare(results_dir: Path, name: str, other: str) -> dict[str, str]:
    """Returns how two recipes differ on the validation images, seed by seed."""
    pairs = [
        (json.loads(path.read_text()), json.loads(partner.read_text()))
        for path in sorted(results_dir.glob(f"{name}-*.json"))
        if (partner := path.with_name(path.name.replace(name, other, 1))).exists()
    ]
    row = {"recipe": name, "beside": other, "seeds": str(len(pairs))}
    for figure, factor in (("val accuracy", 100), ("val loss", 1)):
        differences = [factor * (a[figure] - b[figure]) for a, b in pairs if figure in a and figure in b]
        row[figure] = f"{statistics.mean(differences):+.4f} ± {statistics.stdev(differences):.4f}"
    return row


def show(rows: list[dict[str, str]], title: str) -> None:
    """Prints rows as a table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    Console(width=180).print(table)


def main() -> None:
    """Runs a recipe over seeds, then prints all results so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="YAML file; without it, only the tables are printed")
    parser.add_argument("--name", help="what the runs are called (default: the recipe's name)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where checkpoints go (default: runs)")
    parser.add_argument("--results_dir", type=Path, default=RESULTS_DIR, help="where the JSON files are")
    parser.add_argument("--validation_only", action="store_true", help="don't look at the test images")
    parser.add_argument("--ensemble", action="store_true", help="score the mean of the seeds' probabilities too")
    parser.add_argument("--seconds", action="store_true", help="time the recipe; nothing else should be running")
    parser.add_argument(
        "--compare",
        metavar="NAME",
        help="runs to compare with on the validation images; without a recipe, all NAME_no_…",
    )
    args, flags = parser.parse_known_args()
    if args.recipe:
        name = args.name or Path(args.recipe).stem
        if args.seconds:
            write(args.results_dir / f"{name}-seconds.json", time_alone(args.recipe, args.runs_dir / "seconds"))
        else:
            run_all(name, args, flags)
    names = sorted({path.stem.rpartition("-")[0] for path in args.results_dir.glob("*.json")})
    if args.compare:
        compared = [name] if args.recipe else [name for name in names if name.startswith(f"{args.compare}_no_")]
        show([compare(args.results_dir, name, args.compare) for name in compared], "validation, seed by seed")
    for stage in ("val", "test"):
        if rows := [row for name in names if (row := summarise(args.results_dir, name, stage))]:
            show(rows, stage)


def run_all(name: str, args: argparse.Namespace, flags: list[str]) -> None:
    """Does the runs that nobody has done or is doing."""
    args.results_dir.mkdir(parents=True, exist_ok=True)
    data = MNISTDataModule()
    data.setup("test")
    images, labels = data.test_images.images, data.test_images.labels
    for seed in args.seeds:
        folder, path = args.runs_dir / name / str(seed), args.results_dir / f"{name}-{seed}.json"
        with claim(folder) as is_mine:
            if not is_mine or path.exists():
                continue
            result = {"seed": seed, "flags": flags, **train(args.recipe, seed, folder, flags)}
            if not args.validation_only:
                result |= score(predict(last_checkpoint(folder), images), labels)
            write(path, result)
    path = args.results_dir / f"{name}_ensemble-all.json"
    if args.ensemble and not path.exists():
        paths = [last_checkpoint(args.runs_dir / name / str(seed)) for seed in args.seeds]
        parameters = sum(p.numel() for path in paths for p in rebuild(checkpoints.read(path)).parameters())
        mean = torch.stack([predict(path, images) for path in paths]).mean(0)
        write(path, {"seed": args.seeds, "parameters": parameters, **score(mean, labels)})


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes a run's figures with the machine and the commit that they stand on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    path.write_text(json.dumps({**result, "commit": commit, "machine": measure.machine()}) + "\n")


if __name__ == "__main__":
    main()
