"""The pictures of a run, each drawn from plain numbers."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from mnist_lightning import metrics


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
    canvas = FigureCanvasAgg(figure)
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
    titles = [f"{name}  {confidence:.0%}" for name, confidence in zip(predictions, confidences, strict=True)]
    colors = ["black" if confidence >= 0.9 else "firebrick" for confidence in confidences]
    return _grid(images[:100], titles[:100], colors[:100])


def mistakes_figure(
    images: Tensor, labels: Tensor, probabilities: Tensor, class_names: Sequence[str], disputed: Collection[int] = ()
) -> Figure:
    """Draws the fifty most confident mistakes: label, prediction and how sure that was; disputed labels in grey.

    Args:
        images: `(N, 28, 28)` uint8.
        labels: `(N,)` integers.
        probabilities: `(N, C)` float32.
        class_names: Names of the C classes.
        disputed: Numbers of the images that other people read in another way than the label says.
    """
    confidences, predictions = probabilities.max(1)
    wrong = (predictions != labels).nonzero().squeeze(1)
    wrong = wrong[confidences[wrong].argsort(descending=True)][:50]
    titles = [
        f"{class_names[label]} as {class_names[prediction]}\n{confidence:.1%}{' ?' * (number in disputed)}"
        for number, label, prediction, confidence in zip(
            *(values.tolist() for values in (wrong, labels[wrong], predictions[wrong], confidences[wrong])), strict=True
        )
    ]
    colors = ["gray" if number in disputed else "black" for number in wrong.tolist()]
    return _grid(images[wrong].numpy(), titles, colors, title_lines=2)


def _grid(
    images: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    titles: Sequence[str],
    colors: Sequence[str],
    title_lines: int = 1,
) -> Figure:
    num_columns = max(1, min(len(images), 10))
    num_rows = max(1, -(-len(images) // num_columns))
    width, top = 34, 2 + 7 * title_lines  # in pixels of the images
    canvas = np.zeros((num_rows * (top + 29), num_columns * width), np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / 30, canvas.shape[0] / 30), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))  # one for all images: fifty would take half a second
    for number, (image, title, color) in enumerate(zip(images, titles, colors, strict=True)):
        row, column = divmod(number, num_columns)
        x, y = column * width + 3, row * (top + 29) + top
        canvas[y : y + 28, x : x + 28] = image
        axes.text(x + 13.5, y - 1.5, title, ha="center", va="bottom", fontsize=9, color=color)
    axes.imshow(canvas, cmap="gray_r", vmin=0, vmax=255)
    if not titles:
        axes.text(width / 2, canvas.shape[0] / 2, "none", ha="center", va="center")
    axes.axis("off")
    return figure


def reliability_figure(confidences: Tensor, is_right: Tensor) -> Figure:
    """Draws accuracy against confidence, and below how many images are how sure.

    Args:
        confidences: `(N,)` float32, the probability of each prediction.
        is_right: `(N,)` bool.
    """
    bins = [values.numpy() for values in metrics.reliability(confidences, is_right)]
    counts, means, accuracies = (values[bins[0] > 0] for values in bins)
    figure = Figure(figsize=(5, 6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="lightgray", zorder=0)
    errors = np.sqrt(accuracies * (1 - accuracies) / counts)
    upper.errorbar(means, accuracies, errors, marker="o", color="tab:blue", capsize=2, linestyle="none")
    title = f"expected calibration error {metrics.expected_calibration_error(confidences, is_right):.2%}"
    upper.set(ylabel="accuracy", title=title, xlim=(0, 1.02), ylim=(-0.02, 1.03))
    num_bins = len(bins[0])
    lower.bar((np.arange(num_bins) + 0.5) / num_bins, bins[0], 0.9 / num_bins, color="tab:blue")
    lower.set(xlabel="confidence", ylabel="images", yscale="log", ylim=(0.5, None))  # one is seen, too
    return figure


def curves_figure(history: Sequence[dict[str, float]]) -> Figure:
    """Draws loss and accuracy by epoch, for training and validation, and marks the best epoch.

    Args:
        history: For each epoch its number from 1 on, `epoch`, and what was logged, such as `val/accuracy`.
    """
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    best = max(history, key=lambda row: (row.get("val/accuracy", 0), -row.get("val/loss", np.inf)))["epoch"]
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for stage, color in (("train", "tab:orange"), ("val", "tab:blue")):
            rows = [row for row in history if f"{stage}/{metric}" in row]
            values = [row[f"{stage}/{metric}"] for row in rows]
            axes.plot([row["epoch"] for row in rows], values, marker=".", color=color, label=stage)
        axes.axvline(best, color="gray", linestyle=":", label=f"best epoch: {best:.0f}")
        axes.set(xlabel="epoch", title=metric, xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if metric == "loss":
            axes.legend()
            if any(value > 0 for line in axes.lines[:2] for value in np.asarray(line.get_ydata())):
                axes.set_yscale("log")
    return figure
