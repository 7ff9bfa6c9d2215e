"""Reports: from predictions to text, CSV, JSON and figures. For shapes, see `figures`."""

import csv
import io
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lightning.files import write_atomically
from mnist_lightning.reporting import figures


def classification_report(confusion: Tensor, class_names: Sequence[str], as_dict: bool = False) -> Any:
    """Returns scikit-learn's report on a confusion matrix, as text or as a dictionary."""
    from sklearn import metrics  # takes over a second to import

    counts = confusion.cpu().numpy()
    labels, predictions = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    classes = {"labels": list(range(len(class_names))), "target_names": class_names}
    options = {"digits": 4, "output_dict": as_dict, "zero_division": 0.0}
    return metrics.classification_report(labels, predictions, **classes, **options)


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Returns counts `(C, C)` int64 for labels and predictions `(N,)`: rows are labels, columns are predictions."""
    cells = labels.long() * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def frequent_mistakes(confusion: Tensor, class_names: Sequence[str], max_mistakes: int = 3) -> str:
    """Returns the most frequent mistakes with their counts, such as `4 as 9: 5, 7 as 2: 3`."""
    wrong = confusion.clone().fill_diagonal_(0)
    cells = sorted(wrong.nonzero().tolist(), key=lambda cell: -wrong[*cell].item())[:max_mistakes]
    return ", ".join(f"{class_names[label]} as {class_names[other]}: {wrong[label, other]}" for label, other in cells)


def accuracy_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of an accuracy, in [0, 1]."""
    from scipy.stats import binomtest  # takes a second to import

    low, high = binomtest(num_correct, num_images).proportion_ci(method="wilson")
    return float(low), float(high)


def write_report(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    class_names: Sequence[str],
    details: Mapping[str, Any],
    suspected: Collection[int] = (),
) -> dict[str, Figure]:
    """Writes metrics, a classification report, a confusion matrix, and figures, which are returned by name.

    `details` are extra entries of `metrics.json`, `suspected` the indices of labels that may be wrong.
    """
    confidences, predictions = probabilities.max(1)
    is_correct = predictions == labels
    confusion = confusion_matrix(labels, predictions, len(class_names))
    report = classification_report(confusion, class_names, as_dict=True)
    num_correct = int(is_correct.sum())
    metrics = {
        "accuracy": num_correct / len(labels),
        "accuracy_95_percent_interval": accuracy_interval(num_correct, len(labels)),
        "macro_f1": report["macro avg"]["f1-score"],
        "expected_calibration_error": figures.expected_calibration_error(confidences, is_correct),
        "num_images": len(labels),
        **details,
    }
    title = f"{num_correct:,} of {len(labels):,} correct: {metrics['accuracy']:.2%}"
    drawn = {
        "confusion_matrix": figures.confusion_figure(confusion, class_names, title),
        "reliability": figures.reliability_figure(confidences, is_correct),
        "mistakes": figures.mistakes_figure(images, labels, probabilities, class_names, suspected),
    }
    for name, content in (("metrics", metrics), ("classification_report", report)):
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
    write_atomically(folder / "classification_report.txt", classification_report(confusion, class_names))
    rows = [[name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True)]
    write_csv(folder / "confusion_matrix.csv", [["label", *class_names], *rows])
    for name, figure in drawn.items():
        write_figure(folder / f"{name}.png", figure)
    return drawn


def write_predictions(
    path: Path,
    sources: Sequence[str],
    probabilities: Tensor,
    class_names: Sequence[str],
    extra: Mapping[str, Sequence[object]],
    min_confidence: float = 0.0,
) -> int:
    """Writes a row for each image: source, prediction, confidence, the probability of each class, extra columns.

    The path's suffix decides: lines of JSON for `.json` and `.jsonl`, otherwise CSV; `-` is standard output.
    Predictions below `min_confidence` are left empty; returns their number.
    """
    header = ["source", "prediction", "confidence", *(f"p{i}" for i in range(len(class_names))), *extra]
    rows, num_empty = [], 0
    for source, row, *entries in zip(sources, probabilities.tolist(), *extra.values(), strict=True):
        confidence = max(row)
        prediction = class_names[row.index(confidence)] if confidence >= min_confidence else ""
        num_empty += not prediction
        rows.append([source, prediction, *(round(p, 6) for p in (confidence, *row)), *entries])
    if path.suffix in (".json", ".jsonl"):
        text = "".join(f"{json.dumps(dict(zip(header, row, strict=True)))}\n" for row in rows)
    else:
        text = as_csv([header, *([f"{v:.6f}" if isinstance(v, float) else v for v in row] for row in rows)])
    if path == Path("-"):
        sys.stdout.write(text)
    else:
        write_atomically(path, text)
    return num_empty


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """Returns rows as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Writes rows as comma-separated values."""
    write_atomically(path, as_csv(rows))


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
