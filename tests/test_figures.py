"""Figures show what the numbers say."""

import numpy as np
import torch

from mnist_lightning import figures


def test_the_figure_shows_rare_errors_and_leaves_what_never_happens_white() -> None:
    confusion = torch.tensor([[1000, 0], [1, 999]])
    figure = figures.confusion_figure(confusion, ["a", "b"], "title")
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1000", "999"]
    colors = axes.images[0].to_rgba(np.asarray(axes.images[0].get_array()))
    darkness = 1 - np.asarray(colors)[:, :, :3].mean(2)
    assert darkness[0, 1] < 0.05 < darkness[1, 0] < 0.5 < darkness[0, 0]
    image = figures.render(figure)
    assert (image.ndim, image.shape[2], str(image.dtype)) == (3, 3, "uint8")


def test_mistakes_are_labelled_and_disputed_ones_grey() -> None:
    probabilities = torch.tensor([[0.2, 0.8, 0], [1, 0, 0], [0.001, 0, 0.999], [0.5, 0.2, 0.3]])
    labels, images = torch.tensor([0, 0, 1, 2]), torch.zeros(4, 28, 28, dtype=torch.uint8)
    figure = figures.mistakes_figure(images, labels, probabilities, ["4", "9", "1"], disputed=[0])
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["9 as 1\n99.9%", "4 as 9\n80.0% ?", "1 as 4\n50.0%"]
    assert [text.get_color() for text in texts] == ["black", "gray", "black"]


def test_sheets_show_the_first_images_side_by_side() -> None:
    images = [np.full((28, 28), number, np.uint8) for number in range(120)]
    figure = figures.contact_sheet(images, ["7"] * 120, [0.95, 0.5] * 60)
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert [np.count_nonzero(canvas == number) for number in (1, 99, 100)] == [784, 784, 0]
    assert [(text.get_text(), text.get_color()) for text in figure.axes[0].texts[:2]] == [
        ("7  95%", "black"),
        ("7  50%", "firebrick"),
    ]


def test_no_mistakes_are_a_figure_too() -> None:
    images, labels, right = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]), torch.eye(2)
    assert figures.render(figures.mistakes_figure(images, labels, right, ["0", "1"])).size > 0


def test_reliability_stands_at_the_bins_means() -> None:
    confidences = torch.tensor([0.95, 0.97, 0.99, 0.52])
    figure = figures.reliability_figure(confidences, torch.tensor([True, True, False, True]))
    points = np.asarray(figure.axes[0].lines[1].get_xydata())
    np.testing.assert_allclose(points, np.array([[0.52, 1], [0.97, 2 / 3]]), atol=1e-6)
    assert figure.axes[0].get_title() == "expected calibration error 34.75%"


def test_curves_mark_the_best_epoch() -> None:
    history = [
        {"epoch": epoch, "train/loss": 1 / epoch, "train/accuracy": 0.9, "val/loss": 0.5 / epoch, "val/accuracy": value}
        for epoch, value in ((1, 0.8), (2, 0.95), (3, 0.95), (4, 0.94))
    ]
    figure = figures.curves_figure(history)
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "val", "best epoch: 3"]
    assert np.asarray(accuracy.lines[1].get_ydata()).tolist() == [0.8, 0.95, 0.95, 0.94]
