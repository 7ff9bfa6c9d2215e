"""Sheets show images with what is known about them."""

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from mnist_lightning.reporting import sheets
from mnist_lightning.reporting.sheets import SIDE, Results, Tile


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records texts and their colors, in place of drawing them."""
    recorded: list[tuple[str, str]] = []

    def record(draw: ImageDraw.ImageDraw, place: object, text: str, color: str, *args: object, **options: str) -> None:
        recorded.append((text, color))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return recorded


def test_mistakes_have_both_probabilities_and_suspected_labels_are_named(texts: list[tuple[str, str]]) -> None:
    probabilities = torch.tensor([[0.2, 0.8, 0], [1, 0, 0], [0.001, 0, 0.999], [0.5, 0.2, 0.3]])
    labels, images = torch.tensor([0, 0, 1, 2]), torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[2] = 200
    sheet = sheets.mistakes_sheet(Results(images, labels, probabilities, ["4", "9", "1"], suspected=[0]))
    assert texts[0][0].startswith("3 mistakes in 4 images, the most confident first")
    assert texts[1:] == [
        ("9 as 1\n0.0% / 99.9%", "black"),
        ("4 as 9\n20.0% / 80.0%\nwrong label?", "firebrick"),
        ("1 as 4\n30.0% / 50.0%", "black"),
    ]
    is_ink = np.asarray(sheet) != 255
    assert is_ink[:, : sheet.width // 3].sum() == is_ink.sum() == SIDE * SIDE * 3  # the most confident is first


def test_no_mistakes_are_reported_as_such(texts: list[tuple[str, str]]) -> None:
    images, labels, correct = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]), torch.eye(2)
    sheets.mistakes_sheet(Results(images, labels, correct, ["0", "1"]))
    ((text, _),) = texts
    assert text.startswith("0 mistakes in 2 images")


def test_contact_sheet_shows_the_first_hundred_images_side_by_side(texts: list[tuple[str, str]]) -> None:
    images = [np.full((28, 28), number, np.uint8) for number in range(120)]
    sheet = np.asarray(sheets.contact_sheet(images, ["7"] * 120, [0.95, 0.5] * 60))
    assert [np.count_nonzero(sheet == 255 - number) / (SIDE * SIDE * 3) for number in (1, 99, 100)] == [1, 1, 0]
    legend = "100 of 120 images, as the model sees them: prediction and confidence, in red below 80%"
    assert texts == [(legend, "black"), *[("7  95%", "black"), ("7  50%", "firebrick")] * 50]


def test_contact_sheet_names_files_and_gives_each_line_a_row(texts: list[tuple[str, str]]) -> None:
    images, paths = [np.full((28, 28), 100 + number, np.uint8) for number in range(4)], ["s/a.png"] * 3 + ["s/b.png"]
    sheets.contact_sheet(images, list("1234"), [0.95] * 4, paths)
    assert [text for text, _ in texts[1:]] == [
        f"{name}  95%\n{path[2:]}" for name, path in zip("1234", paths, strict=True)
    ]
    texts.clear()
    sheet = np.asarray(sheets.contact_sheet(images, list("1234"), [0.95] * 4, paths, [0, 0, 1, 0]))
    assert [text for text, _ in texts[1:]] == ["s/a.png", "1  95%", "2  95%", "3  95%", "s/b.png", "4  95%"]
    places = [np.argwhere((sheet == 155 - number).all(2)) for number in range(4)]
    lefts, tops = zip(*((place[:, 1].min(), place[:, 0].min()) for place in places), strict=True)
    assert lefts[0] == lefts[2] == lefts[3] < lefts[1]
    assert tops[0] == tops[1] < tops[2] < tops[3]


def test_titles_have_room() -> None:
    tile = Tile(np.zeros((28, 28), np.uint8), "Ankle boot as T-shirt/top")
    sheet = np.asarray(sheets.draw("", [("", [tile] * 3)]))
    for left in np.linspace(0, sheet.shape[1], 4).astype(int):
        assert (sheet[:, max(0, left - 2) : left + 2] == 255).all()


def test_color_and_large_images_are_drawn_as_they_are(texts: list[tuple[str, str]]) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    paper = np.full((100, 100), 250, np.uint8)
    for image, color in ((red, [200, 0, 0]), (paper, [250, 250, 250])):
        sheet = np.asarray(sheets.contact_sheet([image], ["it"], [1.0]))
        assert (sheet == color).all(2).sum() == SIDE * SIDE


def test_a_sheet_has_one_polarity(texts: list[tuple[str, str]]) -> None:
    dark, light = np.full((28, 28), 10, np.uint8), np.full((28, 28), 250, np.uint8)
    for images, shown in (([dark, dark, light], [245, 245, 5]), ([light, light, dark], [250, 250, 10])):
        row = np.asarray(sheets.contact_sheet(images, ["7"] * 3, [1.0] * 3))[-20, :, 0]  # through the images
        assert row[row != 255].tolist() == np.repeat(shown, SIDE).tolist()


def test_batch_is_drawn_with_labels_as_far_as_there_are_any(texts: list[tuple[str, str]]) -> None:
    images = np.stack([np.full((28, 28), 1 + number, np.uint8) for number in range(120)])
    sheet = np.asarray(sheets.batch_sheet(images, [str(number) for number in range(90)]))
    shown = [number for number in range(120) if (sheet == 254 - number).all(2).sum() == SIDE * SIDE]
    assert shown == list(range(0, 120, 3))
    assert [text for text, _ in texts[1:]] == [str(n) if n < 90 else "no label" for n in shown]
