"""From a confusion matrix to figures, tables and files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lightning.files import write_atomically


def confusion_figure(confusion: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix: counts as text, each row's shares as colour.

    Args:
        confusion: `(C, C)` integers, rows are labels, columns are predictions.
        class_names: Names of the C classes.
        title: Stands above the matrix.
    """
    counts = confusion.cpu().numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    size = 2.2 + 0.42 * len(class_names)
    figure = Figure(figsize=(size, size), dpi=100)
    FigureCanvasAgg(figure)
    margin = (0.5 + 0.08 * max(map(len, class_names))) / size  # a layout engine would double the time to draw
    axes = figure.subplots(gridspec_kw={"left": margin, "bottom": margin, "right": 0.98, "top": 1 - 0.4 / size})
    # The power brings out a share of one in a thousand beside a diagonal of nearly one.
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.35, 0, 1))
    font_size = 11 if len(class_names) <= 12 else 6
    for row, column in zip(*counts.nonzero(), strict=True):
        color = "white" if shares[row, column] > 0.2 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=font_size)
    ticks = range(len(class_names))
    rotation = 90 if max(map(len, class_names)) > 2 else 0
    axes.set_xticks(ticks, class_names, rotation=rotation)
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="prediction", ylabel="label", title=title)
    return figure


def render(figure: Figure) -> npt.NDArray[np.uint8]:
    """Returns a figure as an image, `(height, width, 3)` uint8."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]], predictions: Sequence[str], confidences: Sequence[float]
) -> Figure:
    """Draws the first hundred images, each with its prediction and how sure that is.

    Args:
        images: N times `(28, 28)` uint8.
        predictions: N names of classes.
        confidences: N probabilities.
    """
    count = min(len(images), 100)
    num_columns = min(count, 10)
    num_rows = -(-count // num_columns)
    figure = Figure(figsize=(1.1 * num_columns, 1.35 * num_rows), dpi=100)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.25 / num_rows / 1.35, wspace=0.08, hspace=0.3)
    for axes in all_axes:
        axes.axis("off")
    for axes, image, prediction, confidence in zip(all_axes, images, predictions, confidences, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        color = "black" if confidence >= 0.9 else "firebrick"
        axes.set_title(f"{prediction}  {confidence:.0%}", fontsize=10, pad=3, color=color)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def expected_calibration_error(confidences: Tensor, is_right: Tensor, num_bins: int = 15) -> float:
    """Returns how far confidence and accuracy lie apart, weighted by the images in each of equally wide bins.

    Args:
        confidences: `(N,)` float32, the probability of each prediction.
        is_right: `(N,)` bool.
        num_bins: Number of bins between 0 and 1.

    Source: Guo et al. 2017 (arXiv:1706.04599).
    """
    bins = (confidences * num_bins).ceil().long().clamp(1, num_bins) - 1
    differences = torch.zeros(num_bins, dtype=torch.double).index_add_(
        0, bins, is_right.double() - confidences.double()
    )
    return differences.abs().sum().item() / len(confidences)


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
    folder: Path, confusion: Tensor, loss: float, class_names: Sequence[str], details: dict[str, Any]
) -> None:
    """Writes `metrics.json`, `classification_report.{txt,json}` and `confusion_matrix.{csv,png}`.

    Args:
        folder: Where they go.
        confusion: `(C, C)` integers, rows are labels, columns are predictions.
        loss: Mean cross-entropy in nats.
        class_names: Names of the C classes.
        details: More entries for `metrics.json`.
    """
    num_images, num_right = int(confusion.sum()), int(confusion.trace())
    metrics = {"accuracy": num_right / num_images, "loss": loss, "num_images": num_images, **details}
    report = classification_report(confusion, class_names, as_dict=True)
    title = f"{num_right:,} of {num_images:,} right: {num_right / num_images:.2%}"
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_atomically(folder / "classification_report.txt", classification_report(confusion, class_names))
    write_atomically(folder / "classification_report.json", json.dumps(report, indent=2) + "\n")
    write_figure(folder / "confusion_matrix.png", confusion_figure(confusion, class_names, title))
    rows = [[name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True)]
    write_csv(folder / "confusion_matrix.csv", [["label", *class_names], *rows])


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
        How many those were.
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
