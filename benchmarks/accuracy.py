"""Accuracy of a config with several seeds: `python -m benchmarks.accuracy configs/cnn.yaml --seeds 0 1 2`.

Each run is a separate `fit`, scored after its last epoch, whose number is fixed. Test images are evaluated once, when
the run is finished; with `--validation_only`, which is how configs are chosen, they are not evaluated at all. The
results are one JSON file per run, and runs that have one are skipped. Several of these programs, on one machine or on
machines with a common folder, share the runs.
"""

import argparse
import contextlib
import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks import measure
from mnist_lightning.data.module import MNISTDataModule, normalize
from mnist_lightning.data.sources import SUSPECTED_LABEL_ERRORS
from mnist_lightning.models import Classifier
from mnist_lightning.models.ensemble import Ensemble, rebuild
from mnist_lightning.runs import checkpoints

RESULTS_DIR = measure.RESULTS_DIR / "accuracy"
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""0.975 quantiles of Student's t distribution for a 95% interval with 1, 2, … degrees of freedom."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Locks a run's folder, and yields whether that succeeded; the lock ends with the program, even if it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(folder / "claim", blocking=False))
        except filelock.Timeout:
            yield False
        else:
            yield True


def last_checkpoint(folder: Path) -> Path:
    """Returns the checkpoint of a run's last epoch."""
    return folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def fit(config: str, folder: Path, flags: list[str]) -> float:
    """Trains in a separate process; returns the seconds that training took."""
    shutil.rmtree(folder / "lightning_logs", ignore_errors=True)  # of an interrupted run
    command = [sys.executable, "-m", "mnist_lightning", "fit", "--config", config, *flags]
    done = subprocess.run([*command, "--trainer.default_root_dir", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = re.search(r"trained in +([\d.]+) s", done.stdout)
    assert found, done.stdout
    return float(found[1])


def train(config: str, seed: int, folder: Path, flags: list[str]) -> dict[str, Any]:
    """Trains with one seed; returns its validation scores."""
    seconds = fit(config, folder, ["--seed_everything", str(seed), *flags])
    path = last_checkpoint(folder)
    with (path.parent.parent / "metrics.csv").open() as stream:
        last = [row for row in csv.DictReader(stream) if row["val/accuracy"]][-1]
    return {
        "val accuracy": float(last["val/accuracy"]),
        "val loss": float(last["val/loss"]),
        "training s, machine shared": seconds,
        "parameters": sum(p.numel() for p in rebuild(checkpoints.read(path)).parameters()),
    }


def time_training(config: str, folder: Path) -> dict[str, Any]:
    """Returns the training time of a config, extrapolated from runs of one and three epochs on an idle machine."""
    one, three = (fit(config, folder, ["--trainer.max_epochs", str(number)]) for number in (1, 3))
    num_epochs = yaml.safe_load(Path(config).read_text())["trainer"]["max_epochs"]
    return {
        "epochs": num_epochs,
        "seconds per epoch": (three - one) / 2,
        "seconds": one + (num_epochs - 1) * (three - one) / 2,
    }


def predict(path: Path, images: Tensor) -> Tensor:
    """Returns a checkpoint's probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8."""
    return probabilities(rebuild(checkpoints.read(path)), images)


def combine(paths: Sequence[Path], shift: int, images: Tensor) -> Tensor:
    """Returns the mean probabilities of several checkpoints, and of images shifted by up to so many pixels."""
    options = checkpoints.read(paths[0]).model_options
    given: dict[str, Any] = {name: options[name] for name in ("class_names", "mean", "std")}
    return probabilities(Ensemble([str(path) for path in paths], shift, **given).eval(), images)


def probabilities(model: Classifier, images: Tensor) -> Tensor:
    """Returns a model's probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8."""
    options = model.hparams
    with torch.inference_mode():
        parts = [normalize(part, options["mean"], options["std"]) for part in images.chunk(10)]
        return torch.cat([model.calibrated_logits(part).softmax(1) for part in parts])


def score(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Returns the test scores of probabilities `(N, C)`, given labels `(N,)`."""
    confidences, predictions = probabilities.max(1)
    is_correct = predictions == labels
    wrong, suspected = (~is_correct).nonzero().squeeze(1).tolist(), set(SUSPECTED_LABEL_ERRORS)
    return {
        "test accuracy": is_correct.float().mean().item(),
        "test loss": F.nll_loss(probabilities.log(), labels.long()).item(),
        "ECE": binary_calibration_error(confidences.double(), is_correct).item(),
        "error without suspected label errors": len(set(wrong) - suspected) / (len(labels) - len(suspected)),
        "wrong": wrong,
    }


def describe(values: list[float]) -> str:
    """Returns fractions as a percentage, mean ± standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.2%}" if len(values) < 2 else f"{mean:.2%} ± {100 * statistics.stdev(values):.2f}"


def summarize(results_dir: Path, name: str, stage: str) -> dict[str, str] | None:
    """Returns a table row about the runs of that name; None if none has scores of this stage."""
    paths = sorted(results_dir.glob(f"{name}-*.json"), key=lambda path: (len(path.name), path.name))
    runs = [run for path in paths if f"{stage} accuracy" in (run := json.loads(path.read_text()))]
    if not runs:
        return None
    accuracies = [run[f"{stage} accuracy"] for run in runs]
    row = {"config": name, f"{stage} accuracy": describe(accuracies)}
    if 1 < len(runs) <= len(T_975) + 1:
        margin = T_975[len(runs) - 2] * statistics.stdev(accuracies) / len(runs) ** 0.5
        mean = statistics.mean(accuracies)
        row["95% interval"] = f"{100 * (mean - margin):.2f} to {100 * (mean + margin):.2f}"
    row["each seed"] = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    row["loss"] = f"{statistics.mean(run[f'{stage} loss'] for run in runs):.4f}"
    if stage == "test":
        row["ECE"] = f"{statistics.mean(run['ECE'] for run in runs):.2%}"
        errors = [run["error without suspected label errors"] for run in runs]
        row["error without suspected label errors"] = f"{statistics.mean(errors):.2%}"
    row["parameters"] = f"{runs[0]['parameters']:,}"
    timed = results_dir / f"{name}-seconds.json"
    row["seconds"] = f"{json.loads(timed.read_text())['seconds']:.0f}" if timed.exists() else ""
    return row


def compare(results_dir: Path, name: str, other: str) -> dict[str, str]:
    """Returns a table row about the differences of two configs on the validation images, seed by seed."""
    pairs = [
        (json.loads(path.read_text()), json.loads(partner.read_text()))
        for path in sorted(results_dir.glob(f"{name}-*.json"))
        if (partner := path.with_name(path.name.replace(name, other, 1))).exists()
    ]
    row = {"config": name, "compared with": other, "seeds": str(len(pairs))}
    for score, factor, places in (("val accuracy", 100, 2), ("val loss", 1, 4)):
        differences = [factor * (a[score] - b[score]) for a, b in pairs if score in a and score in b]
        row[score] = f"{statistics.mean(differences):+.{places}f} ± {statistics.stdev(differences):.{places}f}"
    return row


def show(rows: list[dict[str, str]], title: str) -> None:
    """Prints rows as a table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    Console(width=180).print(table)


def main() -> None:
    """Trains a config with several seeds, then prints all results so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="YAML file; without it, only the tables are printed")
    parser.add_argument("--name", help="name of the runs (default: the config's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of the checkpoints (default: runs)")
    parser.add_argument("--results_dir", type=Path, default=RESULTS_DIR, help="folder of the JSON files")
    parser.add_argument("--validation_only", action="store_true", help="do not evaluate the test images")
    parser.add_argument("--shift", type=int, default=0, help="also score the mean over images shifted so far (pixels)")
    parser.add_argument("--ensemble", action="store_true", help="also score the mean of all seeds' probabilities")
    parser.add_argument("--seconds", action="store_true", help="time the config; nothing else should be running")
    parser.add_argument(
        "--compare",
        metavar="NAME",
        help="runs to compare with on the validation images; without a config, all NAME_no_… are compared",
    )
    args, flags = parser.parse_known_args()
    if args.validation_only and (args.shift or args.ensemble):
        parser.error("--shift and --ensemble evaluate the test images; omit --validation_only")
    if args.config:
        name = args.name or Path(args.config).stem
        if args.seconds:
            write(args.results_dir / f"{name}-seconds.json", time_training(args.config, args.runs_dir / "seconds"))
        else:
            run_all(name, args, flags)
    names = sorted({path.stem.rpartition("-")[0] for path in args.results_dir.glob("*.json")})
    if args.compare:
        compared = [name] if args.config else [name for name in names if name.startswith(f"{args.compare}_no_")]
        show([compare(args.results_dir, name, args.compare) for name in compared], "validation, seed by seed")
    for stage in ("val", "test"):
        if rows := [row for name in names if (row := summarize(args.results_dir, name, stage))]:
            show(rows, stage)


def run_all(name: str, args: argparse.Namespace, flags: list[str]) -> None:
    """Does the runs that are neither finished nor being done by another program."""
    args.results_dir.mkdir(parents=True, exist_ok=True)
    data = MNISTDataModule()
    data.setup("test")
    images, labels = data.test_images, data.test_labels
    for seed in args.seeds:
        folder, path = args.runs_dir / name / str(seed), args.results_dir / f"{name}-{seed}.json"
        with claim(folder) as is_claimed:
            if not is_claimed or path.exists():
                continue
            result = {"seed": seed, "flags": flags, **train(args.config, seed, folder, flags)}
            if not args.validation_only:
                result |= score(predict(last_checkpoint(folder), images), labels)
            write(path, result)
    paths = [last_checkpoint(args.runs_dir / name / str(seed)) for seed in args.seeds]
    combined: dict[str, tuple[Any, list[Path]]] = {"ensemble-all": (args.seeds, paths)} if args.ensemble else {}
    if args.shift:
        combined |= {f"shifted-{seed}": (seed, [path]) for seed, path in zip(args.seeds, paths, strict=True)}
    for suffix, (seed, members) in combined.items():
        if not (path := args.results_dir / f"{name}_{suffix}.json").exists():
            parameters = sum(p.numel() for member in members for p in rebuild(checkpoints.read(member)).parameters())
            scores = score(combine(members, args.shift, images), labels)
            write(path, {"seed": seed, "shift": args.shift, "parameters": parameters, **scores})


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes a run's results with the machine and the commit that they were measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    path.write_text(json.dumps({**result, "commit": commit, "machine": measure.machine()}) + "\n")


if __name__ == "__main__":
    main()
