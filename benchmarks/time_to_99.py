"""Time to 99% test accuracy: `configs/cnn_fast.yaml` with ten seeds, each in its own process."""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure

CONFIG = Path(__file__).parent.parent / "configs" / "cnn_fast.yaml"
PROGRAM = [sys.executable, "-m", "mnist_lightning"]


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Runs a command; returns the seconds from start to exit, and its output."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def run(seed: int, folder: Path, accelerator: str) -> dict[str, Any]:
    """Trains and tests with one seed."""
    folder.mkdir()
    device = ["--trainer.accelerator", accelerator, "--trainer.devices", "1"]
    imports, _ = timed([sys.executable, "-c", "import lightning.pytorch"], folder)
    fit = [*PROGRAM, "fit", "--config", str(CONFIG), "--seed_everything", str(seed), *device]
    whole, output = timed(fit, folder)
    timed([*PROGRAM, "test", *device], folder)
    found = re.search(r"trained in +([\d.]+) s", output)
    assert found, output
    training = float(found[1])
    accuracy = json.loads((folder / "lightning_logs" / "version_0" / "test" / "metrics.json").read_text())["accuracy"]
    return {
        "seed": seed,
        "test accuracy %": 100 * accuracy,
        "training s": training,
        "whole process s": whole,
        "import lightning.pytorch s": imports,
        "outside training / import": (whole - training) / imports,
    }


def main() -> None:
    """Measures ten seeds, and adds a row that summarizes them."""
    args = measure.parse("Time to 99% test accuracy", repeats=10, accelerator="cpu")
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(seed, Path(folder) / str(seed), args.accelerator) for seed in range(args.repeats)]
    accuracies = [row["test accuracy %"] for row in rows]
    summary: dict[str, Any] = {
        name: measure.summarize([row[name] for row in rows]) for name in rows[0] if name != "seed"
    }
    summary["test accuracy %"] = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
    summary["seed"] = f"all; {sum(accuracy >= 99 for accuracy in accuracies)} of {len(accuracies)} reach 99%"
    measure.report("time_to_99", [*rows, summary], list(rows[0]), args.output)


if __name__ == "__main__":
    main()
