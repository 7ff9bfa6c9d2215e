"""The figures of a run, each drawn from plain numbers.

Throughout: confidences `(N,)` float32, the largest probability of each image; confusion `(C, C)` integers with labels
in rows; C class names.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

FONT = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"  # matplotlib's own
NUM_BINS = 15  # of confidence, the usual number for the expected calibration error

Pixels = npt.NDArray[np.uint8]


def confusion_image(confusion: Tensor, class_names: Sequence[str], title: str) -> Image.Image:
    """Draws a confusion matrix: counts as text, each row's fractions as color; recall and precision at the edges."""
    # Pillow takes a tenth of matplotlib's time, and training waits for this figure after each epoch.
    counts = confusion.cpu().numpy()
    fractions = counts / counts.sum(1, keepdims=True).clip(1)
    edges = fractions.diagonal(), counts.diagonal() / counts.sum(0).clip(1)
    is_small, font = len(class_names) <= 12, ImageFont.truetype(FONT, 15)
    turned, small = ImageFont.TransposedFont(font, Image.Transpose.ROTATE_90), font.font_variant(size=11)
    numbers, below = font.font_variant(size=14 if is_small else 9), turned if max(map(len, class_names)) > 2 else font
    cell = max(44, 300 // len(class_names)) if is_small else 26
    bottom, top, size = 46 + round(max(map(font.getlength, class_names))), 66, cell * len(class_names)
    margin = max(bottom, 88)
    image = Image.new("RGB", (margin + size + 60, top + size + bottom), "white")
    # The power makes a fraction of 0.001 visible next to a diagonal of nearly 1.
    cells = Image.fromarray(mpl.colormaps["Blues"](PowerNorm(0.35, 0, 1)(fractions), bytes=True)[:, :, :3])
    image.paste(cells.resize((size, size), Image.Resampling.NEAREST), (margin, top))
    draw = ImageDraw.Draw(image)
    draw.rectangle((margin - 1, top - 1, margin + size, top + size), outline="black")
    places, middle = [cell * (index + 0.5) for index in range(len(class_names))], margin + size / 2
    for name, place, recall, precision in zip(class_names, places, *edges, strict=True):
        draw.text((margin - 8, top + place), name, "black", font, "rm")
        left, highest, right, _ = below.getbbox(name)
        draw.text((margin + place - (left + right) / 2, top + size + 8 - highest), name, "black", below)
        draw.text((margin + place, top - 12), f"{100 * precision:.1f}", "dimgray", small, "mm")
        draw.text((margin + size + 8, top + place), f"{100 * recall:.1f}", "dimgray", small, "lm")
    draw.text((margin - 8, top - 12), "precision, %", "dimgray", small, "rm")
    draw.text((margin + size + 4, top - 12), "recall, %", "dimgray", small, "lm")
    draw.text((middle, 18), title, "black", font, "mm")
    draw.text((middle, top + size + bottom - 14), "prediction", "black", font, "mm")
    draw.text((6, top - 18 + size / 2), "label", "black", turned)
    for row, column in zip(*counts.nonzero(), strict=True):
        color = "white" if fractions[row, column] > 0.2 else "black"
        draw.text((margin + places[column], top + places[row]), f"{counts[row, column]:,}", color, numbers, "mm")
    return image


def accuracy_interval(num_correct: Any, num_images: Any) -> tuple[Any, Any]:
    """Returns Wilson's 95% interval of an accuracy, or of several, in [0, 1]. Source: Wilson 1927 (JASA 22)."""
    z = 1.959964  # the 97.5th percentile of the normal distribution
    center = num_correct + z**2 / 2
    half = z * np.sqrt(num_correct * (num_images - num_correct) / num_images + z**2 / 4)
    return (center - half) / (num_images + z**2), (center + half) / (num_images + z**2)


def reliability_figure(confidences: Tensor, is_correct: Tensor) -> Figure:
    """Draws accuracy against confidence, hollow for few images. Source: Guo et al. 2017 (arXiv:1706.04599)."""
    numbers = confidences.double().numpy()
    weights = (np.ones(len(numbers)), numbers, is_correct.double().numpy())
    bins, sums, correct = (np.histogram(numbers, NUM_BINS, (0, 1), weights=values)[0] for values in weights)
    counts, means, accuracies = (values[bins > 0] for values in (bins, sums / bins.clip(1), correct / bins.clip(1)))
    figure = Figure(figsize=(5, 6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="lightgray", zorder=0)
    bars = abs(np.stack(accuracy_interval(correct[bins > 0], counts)) - accuracies)
    upper.errorbar(means, accuracies, bars, color="tab:blue", capsize=2, linestyle="none")
    upper.scatter(means, accuracies, facecolors=np.where(counts < 20, "white", "C0"), edgecolors="C0", zorder=3)
    title = f"expected calibration error {binary_calibration_error(confidences.double(), is_correct, NUM_BINS):.2%}"
    upper.set(ylabel="accuracy", title=title, xlim=(0, 1.02), ylim=(-0.02, 1.03))
    lower.bar((np.arange(NUM_BINS) + 0.5) / NUM_BINS, bins, 0.9 / NUM_BINS, color="tab:blue")
    lower.set(xlabel="confidence", ylabel="images", yscale="log", ylim=(0.5, None))  # so that a single image is visible
    return figure


def risk_coverage_figure(confidences: Tensor, is_correct: Tensor) -> Figure:
    """Draws the error among the most confident predictions. Source: Geifman and El-Yaniv 2017 (arXiv:1705.08500)."""
    is_wrong = ~is_correct[confidences.argsort(descending=True, stable=True)].numpy()
    accepted = np.arange(1, len(is_wrong) + 1)
    figure = Figure(figsize=(5, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * accepted / len(is_wrong), 100 * is_wrong.cumsum() / accepted)
    axes.set(xlabel="accepted, the most confident first, %", ylabel="error among the accepted, %")
    start = 100 * is_wrong.argmax() / len(is_wrong) - 1  # a little before the first mistake
    axes.set(title=f"error with all accepted: {is_wrong.mean():.2%}", xlim=(max(0, start), 100))
    return figure


def curves_figure(history: Sequence[dict[str, float]], best: dict[str, float] | None = None) -> Figure:
    """Draws error and loss by epoch from the rows of a `TrainingHistory`, and marks the best epoch."""
    figure = Figure(figsize=(9, 4), dpi=200, layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for stage, name, color in (("train", "training", "tab:orange"), ("val", "validation", "tab:blue")):
            rows = [row for row in history if f"{stage}/{metric}" in row]
            scores = np.array([row[f"{stage}/{metric}"] for row in rows])
            values = 100 * (1 - scores) if metric == "accuracy" else scores
            values = values.clip(values[values > 0].min(initial=1) / 2)  # the axis has no 0
            axes.plot([row["epoch"] + 1 for row in rows], values, marker=".", color=color, label=name)
        if best:
            axes.axvline(best["epoch"] + 1, color="gray", linestyle=":", label=f"best epoch: {best['epoch'] + 1:.0f}")
        axes.set(xlabel="epoch", title="error, %" if metric == "accuracy" else "loss")
        axes.set_xlim(history[0]["epoch"] + 0.5, history[-1]["epoch"] + 1.5)
        axes.set_yscale("log", subs=(2, 5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.yaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
        axes.grid(which="both", alpha=0.3)
    axes.legend()
    caption = "training: mean over the epoch, with the config's distortions, dropout and label smoothing"
    figure.supxlabel(f"{caption}; validation: after the epoch, without these", fontsize=8)
    return figure
