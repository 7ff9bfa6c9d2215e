"""Reports equal scikit-learn's, and files hold what was computed."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn import metrics
from torch.nn.functional import one_hot

from mnist_lightning.reporting import figures, reports
from mnist_lightning.reporting.sheets import Results
from mnist_lightning.runs import folders

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 3, (500,), generator=GENERATOR)
PREDICTIONS = torch.where(torch.rand(500, generator=GENERATOR) < 0.9, LABELS, (LABELS + 1) % 3)
NAMES = ["cat", "dog", "eel"]
FIGURES = ("confusion_matrix", "mistakes", "reliability", "risk_coverage")
CONFUSION = torch.from_numpy(metrics.confusion_matrix(LABELS, PREDICTIONS))


@pytest.mark.parametrize("names", [NAMES, ["cat", "dog", "a very long name"]])
def test_report_equals_scikit_learn(names: list[str]) -> None:
    options = {"target_names": names, "digits": 4, "zero_division": 0.0}
    expected = metrics.classification_report(LABELS, PREDICTIONS, **options)
    assert reports.classification_report(CONFUSION, names) == expected
    expected = metrics.classification_report(LABELS, PREDICTIONS, output_dict=True, **options)
    found = reports.class_scores(CONFUSION, names)
    assert found.pop("accuracy") == pytest.approx(expected.pop("accuracy"))
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name]) for name in expected)


@pytest.mark.parametrize(("num_correct", "num_images"), [(0, 5), (3, 5), (5, 5), (9962, 10_000)])
def test_interval_equals_scipy(num_correct: int, num_images: int) -> None:
    expected = binomtest(num_correct, num_images).proportion_ci(method="wilson")
    assert figures.accuracy_interval(num_correct, num_images) == pytest.approx(tuple(expected), abs=1e-7)


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
    images = torch.randint(0, 256, (500, 28, 28), dtype=torch.uint8, generator=GENERATOR)
    results = Results(images, LABELS, probabilities, NAMES)
    (tmp_path / "outdated.png").touch()
    reports.write_report(
        tmp_path, results, {"dataset": "Pets", "loss": 0.5, "checkpoint": "c"}, {"more": Image.new("L", (1, 1))}
    )
    written = json.loads((tmp_path / "metrics.json").read_text())
    accuracy = metrics.accuracy_score(LABELS, PREDICTIONS)
    low, high = binomtest(int((LABELS == PREDICTIONS).sum()), 500).proportion_ci(method="wilson")
    assert written == {
        "accuracy": accuracy,
        "accuracy_95_percent_interval": [pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5)],
        "macro_f1": pytest.approx(metrics.f1_score(LABELS, PREDICTIONS, average="macro")),
        "expected_calibration_error": pytest.approx(abs(accuracy - 0.8), abs=1e-6),
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
