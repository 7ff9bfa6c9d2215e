"""From predictions to text, tables and files."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lightning import figures
from mnist_lightning.files import write_atomically
from mnist_lightning.metrics import expected_calibration_error


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Writes a figure as PNG, whole or not at all, with more of matplotlib's options for that."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", **options)
    write_atomically(path, picture.getvalue())


def classification_report(confusion: Tensor, class_names: Sequence[str], as_dict: bool = False) -> Any:
    """Returns scikit-learn's report, as text or as a dictionary.

    Args:
        confusion: `(C, C)` integers, rows are labels, columns are predictions.
        class_names: Names of the C classes.
        as_dict: Whether to return a dictionary.
    """
    from sklearn import metrics  # takes over a second to import

    counts = confusion.cpu().numpy()
    labels, predictions = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    classes = list(range(len(class_names)))
    return metrics.classification_report(
        labels,
        predictions,
        labels=classes,
        target_names=class_names,
        digits=4,
        output_dict=as_dict,
        zero_division=0.0,
    )


def write_report(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str],
    details: dict[str, Any],
    disputed: Collection[int] = (),
) -> None:
    """Writes `metrics.json`, `classification_report.{txt,json}`, `confusion_matrix.{csv,png}` and two more figures.

    Those are `mistakes.png`, the most confident errors, and `reliability.png`, confidence against accuracy.

    Args:
        folder: Where they go.
        images: `(N, 28, 28)` uint8.
        labels: `(N,)` integers.
        probabilities: `(N, C)` float32.
        class_names: Names of the C classes.
        details: More entries for `metrics.json`, such as the loss.
        disputed: Numbers of the images whose labels are disputed.
    """
    from scipy.stats import binomtest  # as slow to import as scikit-learn's

    num_images, num_classes = probabilities.shape
    confidences, predictions = probabilities.max(1)
    is_right = predictions == labels
    cells = labels.long() * num_classes + predictions
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    num_right = int(is_right.sum())
    report: dict[str, Any] = classification_report(confusion, class_names, as_dict=True)
    metrics = {
        "accuracy": num_right / num_images,
        "accuracy_95_percent_interval": [*binomtest(num_right, num_images).proportion_ci(method="wilson")],
        "macro_f1": report["macro avg"]["f1-score"],
        "expected_calibration_error": expected_calibration_error(confidences, is_right),
        "num_images": num_images,
        **details,
    }
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_atomically(folder / "classification_report.txt", classification_report(confusion, class_names))
    write_atomically(folder / "classification_report.json", json.dumps(report, indent=2) + "\n")
    rows = [[name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True)]
    write_csv(folder / "confusion_matrix.csv", [["label", *class_names], *rows])
    title = f"{num_right:,} of {num_images:,} right: {num_right / num_images:.2%}"
    drawn = {
        "confusion_matrix": figures.confusion_figure(confusion, class_names, title),
        "reliability": figures.reliability_figure(confidences, is_right),
        "mistakes": figures.mistakes_figure(images, labels, probabilities, class_names, disputed),
    }
    for name, figure in drawn.items():
        write_figure(folder / f"{name}.png", figure)


def write_predictions(
    path: Path,
    sources: Sequence[str],
    probabilities: Tensor,
    class_names: Sequence[str],
    more: Mapping[str, Sequence[object]],
    min_confidence: float = 0.0,
) -> int:
    """Writes a row for each image: source, prediction, confidence, the probability of each class, and more.

    Args:
        path: The CSV file.
        sources: What each of the N images is called.
        probabilities: `(N, C)` float32.
        class_names: Names of the C classes.
        more: Further columns by name, N entries each.
        min_confidence: Predictions that are less sure are left empty.

    Returns:
        How many were left empty.
    """
    header = ["source", "prediction", "confidence", *(f"p{i}" for i in range(len(class_names))), *more]
    rows, unsure = [], 0
    for source, row, *extra in zip(sources, probabilities.tolist(), *more.values(), strict=True):
        confidence = max(row)
        prediction = class_names[row.index(confidence)] if confidence >= min_confidence else ""
        unsure += not prediction
        rows.append([source, prediction, *(f"{p:.6f}" for p in (confidence, *row)), *extra])
    write_csv(path, [header, *rows])
    return unsure


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Writes rows as comma-separated values, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())
