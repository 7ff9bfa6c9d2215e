"""Figures show what the numbers say."""

import numpy as np
import torch

from mnist_lightning.reporting import figures


def test_confusion_image_shows_rare_errors_and_leaves_empty_cells_white() -> None:
    confusion = torch.tensor([[1000, 0], [1, 999]])
    pixels = np.asarray(figures.confusion_image(confusion, ["a", "b"], "title")).mean(2)
    top, left = 66, int(np.flatnonzero(pixels[65] < 1)[0]) + 1  # within the black frame
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
    assert figure.axes[0].get_title() == "error with all accepted: 50.00%"


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
