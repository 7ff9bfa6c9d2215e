"""What the ingredients of `cnn_robust` give: `python -m benchmarks.ablations`.

Each variant is trained for five epochs with the same seeds. Everything is measured on the validation images, and on
shapes and symbols that are for validation.
"""

import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import measure, outliers, robustness
from benchmarks.accuracy import last_checkpoint, train

CONFIG = "configs/cnn_robust.yaml"
PENS = ("pen", "outline", "strokes", "flags", "nib", "coarse")
VARIANTS = {
    "cnn_robust": [],
    "without pictures that show no digit": ["--data.outliers=0"],
    "without other pens": [f"--data.augmentation.{name}=0" for name in PENS],
}
"""Flags of each variant."""


def score(variant: str, seed: int, num_epochs: int) -> dict[str, float]:
    """Trains a variant; returns its scores in %, those that are right and those that should be low."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*VARIANTS[variant], f"--trainer.max_epochs={num_epochs}"]
        scores = train(CONFIG, seed, Path(folder), flags)
        path = last_checkpoint(Path(folder))
        digits, coarse, *others = outliers.score(path, is_validation=True)
        errors = {row["corruption"]: row["error %"] for row in robustness.score(path, is_validation=True)}
    return {
        "right": digits["right %"],
        "loss": 100 * scores["val loss"],
        "right of 8x8 pixels": coarse["right %"],
        **{f"{row['pictures']} with a confidence of 0.9 or more": row["confidence of 0.9 or more %"] for row in others},
        **{f"{row['pictures']} accepted": row["accepted %"] for row in others},
        "wrong with edges only": errors["edges"],
        "wrong, mean of 16 corruptions": errors[f"mean of {len(robustness.CORRUPTIONS)}"],
    }


def main() -> None:
    """Trains all variants with all seeds, seed by seed."""
    args = measure.parse("What the ingredients of cnn_robust give", repeats=3, epochs=5)
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(args.repeats):
        for variant, scores in runs.items():
            scores.append(score(variant, seed, args.epochs))
            print(variant, seed, scores[-1], flush=True)
    rows: list[dict[str, Any]] = []
    for variant, scores in runs.items():
        values = {name: [run[name] for run in scores] for name in scores[0]}
        described = {name: f"{fmean(each):.2f} ± {stdev(each):.2f}" for name, each in values.items()}
        rows.append({"variant": variant, **described, "seeds": scores})
    measure.report("ablations", rows, list(rows[0])[:-1], args.output)


if __name__ == "__main__":
    main()
