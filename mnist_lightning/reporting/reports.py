"""Reports: from predictions to text, CSV, JSON, figures and a page.

Throughout: confusion `(C, C)` integers with labels in rows; C class names.
"""

import base64
import csv
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_confusion_matrix

from mnist_lightning.console import program
from mnist_lightning.files import write_atomically
from mnist_lightning.reporting import figures, sheets
from mnist_lightning.reporting.sheets import Results
from mnist_lightning.runs import folders

COLUMNS = ("precision", "recall", "f1-score", "support")


def class_scores(confusion: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the scores of each class, their averages, and the accuracy, with scikit-learn's names for them."""
    counts = confusion.cpu().double()
    correct, predicted, support = counts.diagonal(), counts.sum(0), counts.sum(1)
    parts = ((correct, predicted), (correct, support), (2 * correct, predicted + support))
    scores = torch.stack([part / whole.clamp(min=1) for part, whole in parts])  # (3, C)
    averages = torch.stack([scores.mean(1), scores @ support / support.sum()], 1)
    table = torch.cat([torch.cat([scores, averages], 1), torch.cat([support, support.sum().expand(2)])[None]])
    rows = zip([*class_names, "macro avg", "weighted avg"], table.T.tolist(), strict=True)
    accuracy = (correct.sum() / support.sum()).item()
    return {**{name: dict(zip(COLUMNS, row, strict=True)) for name, row in rows}, "accuracy": accuracy}


def classification_report(confusion: Tensor, class_names: Sequence[str]) -> str:
    """Returns these scores as a table."""
    scores = class_scores(confusion, class_names)
    width, total, accuracy = max(map(len, scores)), scores["macro avg"]["support"], scores.pop("accuracy")
    rows = [
        f"{name:>{width}}  {' '.join(f'{row[column]:>9.4f}' for column in COLUMNS[:3])} {row['support']:>9.0f}"
        for name, row in scores.items()
    ]
    header = f"{'':>{width}}  {' '.join(f'{column:>9}' for column in COLUMNS)}\n"
    middle = f"\n{'accuracy':>{width}} {'':>20} {accuracy:>9.4f} {total:>9.0f}"
    return "\n".join([header, *rows[:-2], middle, *rows[-2:], ""])


def frequent_mistakes(confusion: Tensor, class_names: Sequence[str], max_mistakes: int = 3) -> str:
    """Returns the most frequent mistakes with their counts, such as `4 as 9 (5x), 7 as 2 (3x)`."""
    wrong = confusion.clone().fill_diagonal_(0)
    cells = sorted(wrong.nonzero().tolist(), key=lambda cell: -wrong[*cell].item())[:max_mistakes]
    return ", ".join(f"{class_names[label]} as {class_names[other]} ({wrong[label, other]}x)" for label, other in cells)


def write_report(
    folder: Path, results: Results, details: Mapping[str, Any], figures_of_network: Mapping[str, Image.Image]
) -> dict[str, Any]:
    """Writes metrics, which are returned, with details; scores of each class, the confusion matrix, figures; a page."""
    labels, names, is_correct = results.labels, results.class_names, results.predictions == results.labels
    confusion = multiclass_confusion_matrix(results.predictions, labels, len(names))
    scores = class_scores(confusion, names)
    num_correct = int(is_correct.sum())
    metrics = {
        "accuracy": num_correct / len(labels),
        "accuracy_95_percent_interval": figures.accuracy_interval(num_correct, len(labels)),
        "macro_f1": scores["macro avg"]["f1-score"],
        "expected_calibration_error": binary_calibration_error(results.confidences.double(), is_correct).item(),
        "num_images": len(labels),
        "frequent_mistakes": frequent_mistakes(confusion, names) or "none",
        **details,
    }
    rows = [[name, *counts] for name, counts in zip(names, confusion.tolist(), strict=True)]
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_atomically(folder / "classification_report.json", json.dumps(scores, indent=2) + "\n")
    write_atomically(folder / "classification_report.txt", classification_report(confusion, names))
    write_atomically(folder / "confusion_matrix.csv", as_csv([["label", *names], *rows]))
    title = f"{num_correct:,} of {len(labels):,} correct: {metrics['accuracy']:.2%}"
    pictures: dict[str, Figure | Image.Image] = {
        "confusion_matrix": figures.confusion_image(confusion, names, title),
        "reliability": figures.reliability_figure(results.confidences, is_correct),
        "risk_coverage": figures.risk_coverage_figure(results.confidences, is_correct),
        "mistakes": sheets.mistakes_sheet(results),
        **figures_of_network,
    }
    for outdated in folder.glob("*.png"):
        outdated.unlink()
    for name, picture in pictures.items():
        write_figure(folder / f"{name}.png", picture)
    _write_page(folder, metrics, scores)
    return metrics


def _write_page(folder: Path, metrics: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    """Writes `report.html`: the report, and how its run was trained, in one file that needs no others."""
    run_dir = folder.parent
    paths = [*folder.glob("*.png"), *run_dir.glob("figures/*.png")]
    files = {path.name: path.read_text("utf-8") for path in [*run_dir.glob("*.yaml"), *run_dir.glob("*.json")]}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["command"] = lambda words: shlex.join([*program(words[0]), *words[1:]])
    page = environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8")).render(
        stage=folder.name,
        metrics=metrics,
        scores=scores,
        pictures={path.stem: base64.b64encode(path.read_bytes()).decode() for path in paths},
        processes=[*json.loads(files.get("environment.json", "[]")), folders.environment()],
        config=files.get("config.yaml"),
    )
    write_atomically(folder / "report.html", page)


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Writes columns as CSV, or as lines of JSON for `.json` and `.jsonl`, with six decimals; `-`: standard output."""
    rows = [[round(v, 6) if isinstance(v, float) else v for v in row] for row in zip(*columns.values(), strict=True)]
    if path.suffix in (".json", ".jsonl"):
        text = "".join(f"{json.dumps(dict(zip(columns, row, strict=True)))}\n" for row in rows)
    else:
        text = as_csv([[*columns], *([f"{v:.6f}" if isinstance(v, float) else v for v in row] for row in rows)])
    if path == Path("-"):
        sys.stdout.write(text)
    else:
        write_atomically(path, text)


def as_csv(rows: Sequence[Sequence[object]]) -> str:
    """Returns rows as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_figure(path: Path, figure: Figure | Image.Image) -> None:
    """Writes a figure as PNG."""
    content = io.BytesIO()
    (figure.savefig if isinstance(figure, Figure) else figure.save)(content, format="png")
    write_atomically(path, content.getvalue())
