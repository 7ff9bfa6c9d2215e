"""Images of digits become MNIST's images again, however they were photographed."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accuracy import predict
from benchmarks.images import ORDINARY, SPECIAL, photograph, write_digit, write_line
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import Digit, choose, find_digits, join_lines
from mnist_lightning.images.digits import to_mnist
from mnist_lightning.runs.folders import PRETRAINED
from tests.conftest import UInt8, png, scan
from tests.images.conftest import distance

UPRIGHT = set(ORDINARY)
UPRIGHT.remove("rotated")
LIGHT_INK = UPRIGHT.copy()
LIGHT_INK.remove("dark on light")
CONDITIONS = {"dark on light": UPRIGHT, "light on dark": LIGHT_INK}
CONDITIONS |= {name: UPRIGHT | {name} for name in ("ruled paper", "graph paper", "hard shadow")}


def whole(digits: list[Digit]) -> list[Digit]:
    """Returns connected ink as one digit each, as all is the same to a model that knows nothing."""
    chosen, _ = choose(digits, np.full((len(digits), 10), 0.1, np.float32))
    return [digits[index] for index in chosen]


def read_photos(images: UInt8, conditions: Collection[str]) -> UInt8:
    """Returns the digits that are found in photos of images."""
    assert set(conditions) <= {*ORDINARY, *SPECIAL}

    def read_photo(number: int) -> UInt8:
        generator = np.random.default_rng(number)
        (found,) = find_digits(photograph(write_digit(images[number], generator, conditions), generator, conditions))
        return found.image

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(read_photo, range(len(images)))))


def test_mnist_images_are_unchanged(mnist_images: UInt8) -> None:
    for image in mnist_images:
        (found,) = find_digits(png(image))
        assert found.image.tobytes() == image.tobytes()
        assert (found.left, found.top, found.width, found.height) == (0, 0, 28, 28)


@pytest.mark.slow
@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_digit_from_a_photo_matches_the_original(mnist_images: UInt8, conditions: set[str]) -> None:
    images = mnist_images[:20]
    distances = [distance(found, image) for found, image in zip(read_photos(images, conditions), images, strict=True)]
    blank = [distance(np.zeros_like(image), image) for image in images]
    assert np.mean(distances) < 0.35 * np.mean(blank)


@pytest.mark.slow
def test_photos_cost_at_most_one_percentage_point_of_accuracy() -> None:
    data = MNISTDataModule()
    data.setup("fit")
    chosen = data.val_indices[:200]
    images, labels = data.train_images[chosen], data.train_labels[chosen]
    photos = torch.from_numpy(read_photos(images.numpy(), ORDINARY))
    before, after = ((predict(PRETRAINED, seen).argmax(1) == labels).float().mean().item() for seen in (images, photos))
    assert after >= before - 0.01


def test_all_digits_are_found_in_nine_of_ten_lines_on_graph_paper(mnist_images: UInt8) -> None:
    generator = np.random.default_rng(0)
    counts = []
    for start in range(0, 60, 6):
        ink = write_line(mnist_images[start : start + 6], generator)
        counts.append(len(whole(find_digits(photograph(ink, generator, {*ORDINARY, "graph paper"}), many=True))))
    assert counts.count(6) >= 9


def test_digits_are_found_line_by_line_with_their_boxes(mnist_images: UInt8) -> None:
    page = np.zeros((200, 460), np.uint8)
    numbers = [[0, 1, 2, 3, 5], [4, 6, 7]]
    for row, line in enumerate(numbers):
        for column, number in enumerate(line):
            top, left = 20 + 90 * row + 3 * (column % 2), 20 + 90 * column
            page[top : top + 56, left : left + 56] = np.kron(mnist_images[number], np.ones((2, 2), np.uint8))
    found = whole(find_digits(png(255 - page), many=True))
    flat = [number for line in numbers for number in line]
    assert len(found) == len(flat)
    for digit, number in zip(found, flat, strict=True):
        assert distance(digit.image, mnist_images[number]) < 0.06
    for place, digit in enumerate(found):
        row, column = divmod(place, 5)
        assert abs(digit.left + digit.width / 2 - (20 + 90 * column + 28)) < 12
        assert abs(digit.top + digit.height / 2 - (20 + 90 * row + 28)) < 12
    texts = [str(number) for number in flat]
    assert join_lines(list(zip(found, texts, strict=True))) == ["01235", "467"]


@pytest.mark.parametrize(
    ("lefts", "text"),
    [
        ([0, 25, 50, 100, 125], "012 34"),  # two numbers
        ([0, 25, 50, 75, 100], "01234"),
        ([0, 55, 110, 165, 220], "01234"),  # evenly spaced, as in a form
        ([0, 100, 200, 300, 400], "0 1 2 3 4"),
        ([0, 200], "0 1"),
    ],
)
def test_wide_gaps_separate_numbers(lefts: list[int], text: str) -> None:
    image = np.zeros((28, 28), np.uint8)
    line = [(Digit(image, left, 0, 20, 30), str(number)) for number, left in enumerate(lefts)]
    assert join_lines(line) == [text]
    assert join_lines([*line, (Digit(image, 0, 60, 20, 30, line=1), "9")]) == [text, "9"]


def test_slanted_column_has_one_digit_per_line(mnist_images: UInt8) -> None:
    page = np.zeros((300, 200), np.uint8)
    for number in range(3):
        top, left = 20 + 90 * number, 20 + 30 * number
        page[top : top + 56, left : left + 56] = np.kron(mnist_images[number], np.ones((2, 2), np.uint8))
    found = whole(find_digits(png(255 - page), many=True))
    assert join_lines([(digit, str(number)) for number, digit in enumerate(found)]) == ["0", "1", "2"]


def test_boxes_are_in_pixels_of_a_large_image(mnist_images: UInt8) -> None:
    page = np.full((3000, 2000), 255, np.uint8)
    page[1000:1560, 400:960] = scan(mnist_images[0], 20)
    rows, columns = np.nonzero(page < 128)
    (found,) = find_digits(png(page))
    box = (found.left, found.top, found.left + found.width, found.top + found.height)
    assert box == pytest.approx((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=8)
    assert distance(found.image, mnist_images[0]) < 0.06


def test_path_and_bytes_give_the_same_digit(mnist_images: UInt8, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(scan(mnist_images[0])).save(path)
    (from_file,), (from_content,) = find_digits(path), find_digits(path.read_bytes())
    assert from_file.image.tobytes() == from_content.image.tobytes()
    assert distance(from_file.image, mnist_images[0]) < 0.06


@pytest.mark.parametrize("width", [10, 15, 40])
def test_narrow_digit_is_centered(width: int) -> None:
    rows, columns = np.nonzero(to_mnist(np.ones((100, width), np.float32)))
    assert abs(rows.mean() - 14) <= 1
    assert abs(columns.mean() - 14) <= 1
