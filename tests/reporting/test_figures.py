"""Figures show what the numbers say."""

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from mnist_lightning.reporting import figures


def test_confusion_image_shows_rare_errors_and_leaves_empty_cells_white() -> None:
    confusion = torch.tensor([[1000, 0], [1, 999]])
    pixels = np.asarray(figures.confusion_image(confusion, ["a", "b"], "title")).mean(2)
    top, left = 40, int(np.flatnonzero(pixels[39] < 1)[0]) + 1  # within the black frame
    places = [(row, column) for row in (0, 1) for column in (0, 1)]
    cells = {(row, column): pixels[top + 150 * row :, left + 150 * column :][9:140, 9:140] for row, column in places}
    darkness = {place: 1 - np.median(cell) / 255 for place, cell in cells.items()}
    assert darkness[0, 1] < 0.05 < darkness[1, 0] < 0.5 < darkness[0, 0]
    has_text = {place: np.ptp(cell) > 100 for place, cell in cells.items()}
    assert has_text == {(0, 0): True, (0, 1): False, (1, 0): True, (1, 1): True}


def test_confusion_image_has_room_for_long_names_and_many_classes() -> None:
    for names in (["Ankle boot", "T-shirt/top"], [str(number) for number in range(47)]):
        title = "10,000 of 10,000 correct: 100.00%"
        pixels = np.asarray(figures.confusion_image(torch.eye(len(names)).long(), names, title))
        edges = np.concatenate([pixels[:4].ravel(), pixels[-4:].ravel(), pixels[:, :4].ravel(), pixels[:, -4:].ravel()])
        assert (edges == 255).all()  # nothing is cut off


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records texts and their colors, in place of drawing them."""
    recorded: list[tuple[str, str]] = []

    def record(draw: ImageDraw.ImageDraw, place: object, text: str, color: str, *args: object, **options: str) -> None:
        recorded.append((text, color))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return recorded


def test_mistakes_are_labeled_and_suspected_label_errors_are_gray(texts: list[tuple[str, str]]) -> None:
    probabilities = torch.tensor([[0.2, 0.8, 0], [1, 0, 0], [0.001, 0, 0.999], [0.5, 0.2, 0.3]])
    labels, images = torch.tensor([0, 0, 1, 2]), torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[2] = 200
    sheet = figures.mistakes_figure(images, labels, probabilities, ["4", "9", "1"], suspected=[0])
    assert texts == [("9 as 1\n99.9%", "black"), ("4 as 9\n80.0% ?", "gray"), ("1 as 4\n50.0%", "black")]
    is_ink = np.asarray(sheet) != 255
    assert is_ink[:, :102].sum() == is_ink.sum() == 84 * 84 * 3  # the most confident mistake is first


def test_mistakes_figure_without_mistakes_says_none(texts: list[tuple[str, str]]) -> None:
    images, labels, correct = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]), torch.eye(2)
    figures.mistakes_figure(images, labels, correct, ["0", "1"])
    assert texts == [("none", "black")]


def test_contact_sheet_shows_the_first_hundred_images_side_by_side(texts: list[tuple[str, str]]) -> None:
    images = [np.full((28, 28), number, np.uint8) for number in range(120)]
    sheet = np.asarray(figures.contact_sheet(images, ["7"] * 120, [0.95, 0.5] * 60))
    assert [np.count_nonzero(sheet == 255 - number) / (84 * 84 * 3) for number in (1, 99, 100)] == [1, 1, 0]
    assert texts == [("7  95%", "black"), ("7  50%", "firebrick")] * 50


def test_titles_have_room() -> None:
    names = ["Ankle boot as T-shirt/top"] * 3
    sheet = np.asarray(figures.contact_sheet([np.zeros((28, 28), np.uint8)] * 3, names, [1.0] * 3))
    for left in np.linspace(0, sheet.shape[1], 4).astype(int):
        assert (sheet[:, max(0, left - 2) : left + 2] == 255).all()


def test_color_and_large_images_are_drawn_as_they_are(texts: list[tuple[str, str]]) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    paper = np.full((100, 100), 250, np.uint8)
    for image, color in ((red, [200, 0, 0]), (paper, [250, 250, 250])):
        sheet = np.asarray(figures.contact_sheet([image], ["it"], [1.0]))
        assert (sheet == color).all(2).sum() == 84 * 84


def test_reliability_figure_has_a_point_at_the_means_of_each_bin() -> None:
    confidences = torch.tensor([0.95, 0.97, 0.99, 0.52] + 20 * [0.72])
    figure = figures.reliability_figure(confidences, torch.tensor([True, True, False, True] + 20 * [True]))
    points = figure.axes[0].collections[-1]
    np.testing.assert_allclose(
        np.array(points.get_offsets()), np.array([[0.52, 1], [0.72, 1], [0.97, 2 / 3]]), atol=1e-6
    )
    is_hollow = (np.asarray(points.get_facecolor())[:, :3] == 1).all(1)
    assert is_hollow.tolist() == [True, False, True]
    assert figure.axes[0].get_title() == "expected calibration error 29.12%"


def test_risk_rises_as_less_confident_predictions_are_accepted() -> None:
    figure = figures.risk_coverage_figure(torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.tensor([False, True, True, False]))
    points = np.asarray(figure.axes[0].lines[0].get_xydata())
    np.testing.assert_allclose(points, np.array([[25, 0], [50, 0], [75, 100 / 3], [100, 50]]))
    assert figure.axes[0].get_title() == "all: 50.00% wrong"


def test_curves_count_epochs_from_one_and_mark_the_best() -> None:
    history = [
        {"epoch": n, "train/loss": 1 / (n + 1), "train/accuracy": 0.9, "val/loss": 0.5 / (n + 1), "val/accuracy": value}
        for n, value in enumerate((0.8, 0.95, 0.95, 0.94))
    ]
    figure = figures.curves_figure(history, history[2])
    error, loss = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation", "best epoch: 3"]
    assert [np.asarray(line.get_xdata()).tolist() for line in loss.lines[:2]] == [[1, 2, 3, 4]] * 2
    assert np.asarray(loss.lines[2].get_xdata()).tolist() == [3, 3]
    np.testing.assert_allclose(np.asarray(error.lines[1].get_ydata()), [20, 5, 5, 6])


def test_curves_skip_epochs_without_validation() -> None:
    history = [{"epoch": n, "train/loss": 0.5, "train/accuracy": 0.9} for n in range(4)]
    for row in history[1::2]:
        row |= {"val/loss": 0.4, "val/accuracy": 0.8}
    error, _ = figures.curves_figure(history).axes
    assert [np.asarray(line.get_xdata()).tolist() for line in error.lines[:2]] == [[1, 2, 3, 4], [2, 4]]
