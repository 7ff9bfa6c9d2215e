"""Starting from the pretrained weights: FashionMNIST from scratch and with `--init_from pretrained`, equally long.

Both use the network of the pretrained weights, once with all training images and once with one percent of them; the
learning rate of each is the one with the better mean validation accuracy. FashionMNIST is read from `--data_dir`, or
downloaded there.
"""

import itertools
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks import measure
from benchmarks.time_to_99 import PROGRAM
from mnist_lightning.runs.folders import PRETRAINED

NETWORK = yaml.safe_load(PRETRAINED.with_suffix(".yaml").read_text())["model"]["init_args"]
SCRATCH = ["--model=CNN", *(f"--model.init_args.{name}={NETWORK[name]}" for name in ("widths", "edges_only"))]
STARTS = {
    "from scratch": SCRATCH,
    "from the pretrained weights": ["--init_from=pretrained"],
    "the last layer alone": ["--init_from=pretrained", "--model.init_args.freeze=true"],
}
DATA = {
    "all": ["--trainer.max_epochs=2"],
    "1%": ["--data.validation_fraction=0.99", "--trainer.limit_val_batches=6", "--trainer.max_epochs=20"],
}
LEARNING_RATES = (0.01, 0.003)


def run(flags: list[str], data_dir: Path) -> tuple[float, float]:
    """Trains and tests; returns validation and test accuracy in percent, both of the epoch with the best validation."""
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        data = ["--data.dataset=FashionMNIST", f"--data.data_dir={data_dir.resolve()}"]
        subprocess.run([*PROGRAM, "fit", *data, *flags], **quiet)
        subprocess.run([*PROGRAM, "test"], **quiet)
        run_dir = Path(folder) / "lightning_logs" / "version_0"
        rows = [line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines()]
        column = rows[0].index("val/accuracy")
        accuracy = json.loads((run_dir / "test" / "metrics.json").read_text())["accuracy"]
        return 100 * max(float(row[column]) for row in rows[1:]), 100 * accuracy


def main() -> None:
    """Measures three seeds."""
    args = measure.parse("Starting from the pretrained weights", repeats=3, data_dir=Path("data"))
    rows: list[dict[str, Any]] = []
    for (images, length), (start, flags) in itertools.product(DATA.items(), STARTS.items()):
        found = {}
        for rate in LEARNING_RATES:
            settings = [*length, *flags, f"--model.init_args.learning_rate={rate}"]
            found[rate] = [run([*settings, f"--seed_everything={seed}"], args.data_dir) for seed in range(args.repeats)]
        rate = max(found, key=lambda rate: statistics.mean(validation for validation, _ in found[rate]))
        row = {"images": images, "start": start, "learning rate": rate}
        for name, values in zip(("validation", "test"), zip(*found[rate], strict=True), strict=True):
            row[f"{name} accuracy %"] = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        rows.append({**row, "all": found})
        print(row, flush=True)
    measure.report("transfer", rows, list(rows[0])[:-1], args.output)


if __name__ == "__main__":
    main()
