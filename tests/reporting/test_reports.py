"""Reports equal scikit-learn's, and files hold what was computed."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from mnist_lightning.reporting import figures, reports
from mnist_lightning.reporting.sheets import Results
from mnist_lightning.runs import folders

CONFUSION = torch.tensor([[150, 22, 0], [3, 140, 17], [22, 0, 146]])
LABELS = torch.arange(3).repeat_interleave(CONFUSION.sum(1))
PREDICTIONS = torch.arange(3).repeat(3).repeat_interleave(CONFUSION.flatten())
NAMES = ["cat", "dog", "eel"]
FIGURES = ("confusion_matrix", "mistakes", "reliability", "risk_coverage")

# Both as `sklearn.metrics.classification_report(LABELS, PREDICTIONS, target_names=…, digits=4)` returns them:
REPORT = """\
                  precision    recall  f1-score   support

             cat     0.8571    0.8721    0.8646       172
             dog     0.8642    0.8750    0.8696       160
a very long name     0.8957    0.8690    0.8822       168

        accuracy                         0.8720       500
       macro avg     0.8723    0.8720    0.8721       500
    weighted avg     0.8724    0.8720    0.8721       500
"""
SCORES = {
    "cat": (0.8571428571, 0.8720930233, 0.8645533141, 172),
    "dog": (0.8641975309, 0.875, 0.8695652174, 160),
    "eel": (0.8957055215, 0.8690476190, 0.8821752266, 168),
    "macro avg": (0.8723486365, 0.8720468808, 0.8720979194, 500),
    "weighted avg": (0.8723574079, 0.872, 0.8720780858, 500),
}


def test_report_equals_scikit_learn() -> None:
    assert reports.classification_report(CONFUSION, ["cat", "dog", "a very long name"]) == REPORT
    shorter = "\n".join(line[4:] for line in REPORT.replace("a very long name", " " * 13 + "eel").split("\n"))
    assert reports.classification_report(CONFUSION, NAMES) == shorter
    found = reports.class_scores(CONFUSION, NAMES)
    assert found.pop("accuracy") == 0.872
    assert found == {
        name: pytest.approx(dict(zip(reports.COLUMNS, row, strict=True)), abs=1e-9) for name, row in SCORES.items()
    }


@pytest.mark.parametrize(
    ("num_correct", "num_images", "low", "high"),  # as `scipy.stats.binomtest(…).proportion_ci(method="wilson")`
    [
        (0, 5, 0.0, 0.4344824648),
        (3, 5, 0.2307242813, 0.8823792258),
        (5, 5, 0.5655175352, 1.0),
        (9962, 10_000, 0.9947888231, 0.9972300969),
    ],
)
def test_interval_equals_scipy(num_correct: int, num_images: int, low: float, high: float) -> None:
    assert figures.accuracy_interval(num_correct, num_images) == pytest.approx((low, high), abs=1e-7)


def test_most_frequent_mistakes_come_first() -> None:
    confusion = torch.tensor([[9, 2, 0], [5, 9, 1], [0, 0, 9]])
    assert reports.frequent_mistakes(confusion, NAMES) == "dog as cat (5x), cat as dog (2x), dog as eel (1x)"
    assert reports.frequent_mistakes(torch.eye(3).long(), NAMES) == ""
    assert reports.frequent_mistakes(torch.tensor([[5]]), ["cat"]) == ""


def test_class_that_never_occurs_has_a_score_of_zero() -> None:
    confusion = torch.tensor([[3, 0], [0, 0]])
    assert reports.class_scores(confusion, ["a", "b"])["b"]["f1-score"] == 0.0


def test_all_files_are_written(tmp_path: Path) -> None:
    probabilities = 0.7 * one_hot(PREDICTIONS, 3) + 0.1
    images = torch.zeros(500, 28, 28, dtype=torch.uint8)
    results = Results(images, LABELS, probabilities, NAMES)
    (tmp_path / "outdated.png").touch()
    reports.write_report(
        tmp_path, results, {"dataset": "Pets", "loss": 0.5, "checkpoint": "c"}, {"more": Image.new("L", (1, 1))}
    )
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == {
        "accuracy": 0.872,
        "accuracy_95_percent_interval": [pytest.approx(0.8398543147), pytest.approx(0.8984731760)],
        "macro_f1": pytest.approx(SCORES["macro avg"][2]),
        "expected_calibration_error": pytest.approx(0.872 - 0.8, abs=1e-6),
        "num_images": 500,
        "frequent_mistakes": "cat as dog (22x), eel as cat (22x), dog as eel (17x)",
        "dataset": "Pets",
        "loss": 0.5,
        "checkpoint": "c",
    }
    with (tmp_path / "confusion_matrix.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["label", *NAMES]
    assert [row[0] for row in rows] == NAMES
    assert [[int(cell) for cell in row[1:]] for row in rows] == CONFUSION.tolist()
    assert "weighted avg" in (tmp_path / "classification_report.txt").read_text()
    report = json.loads((tmp_path / "classification_report.json").read_text())
    assert report["cat"]["support"] == CONFUSION[0].sum()
    assert {path.stem for path in tmp_path.glob("*.png")} == {*FIGURES, "more"}
    for name in FIGURES:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 300


def test_page_needs_no_other_file_and_says_how_to_reproduce_it(tmp_path: Path) -> None:
    folder, images = tmp_path / "test", torch.zeros(500, 28, 28, dtype=torch.uint8)
    (tmp_path / "config.yaml").write_text("model: <MLP>")
    entry = {**folders.environment(), "command": ["/site-packages/mnist_lightning/__main__.py", "fit", "--name", "a b"]}
    (tmp_path / "environment.json").write_text(json.dumps([entry]))
    results = Results(images, LABELS, one_hot(PREDICTIONS, 3).float(), ["<cat>", "dog", "eel"])
    written = reports.write_report(folder, results, {"dataset": "Pets", "loss": 0.5, "checkpoint": "c.ckpt"}, {})
    page = (folder / "report.html").read_text()
    assert f"<h1>Pets: {100 * written['accuracy']:.2f}% of 500 test images classified correctly</h1>" in page
    low, high = written["accuracy_95_percent_interval"]
    assert f"95% interval {100 * low:.2f}% to {100 * high:.2f}%" in page
    assert "<td>&lt;cat&gt;</td>" in page
    assert "<pre>python -m mnist_lightning fit --name &#39;a b&#39;</pre>" in page
    assert "model: &lt;MLP&gt;" in page
    assert f"torch {torch.__version__.partition('+')[0]}" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert "<script" not in page


def test_table_has_six_digits_in_csv_and_json(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {"source": ["x", "y"], "confidence": [0.75, 1 / 3], "left": [3, 4]}
    columns["reason"] = ["", "unsure"]
    reports.write_table(tmp_path / "p.csv", columns)
    assert (tmp_path / "p.csv").read_text() == "source,confidence,left,reason\nx,0.750000,3,\ny,0.333333,4,unsure\n"
    reports.write_table(tmp_path / "p.json", columns)
    rows = [json.loads(line) for line in (tmp_path / "p.json").read_text().splitlines()]
    assert rows[1] == {"source": "y", "confidence": 0.333333, "left": 4, "reason": "unsure"}
