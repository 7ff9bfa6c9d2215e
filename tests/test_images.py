"""Pictures of digits become MNIST's images again, however they were taken."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from benchmarks.accuracy import predict
from benchmarks.pictures import ORDINARY, photograph, write_digit, write_line
from mnist_lightning import images
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.runs import PRETRAINED

UInt8 = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def digits() -> UInt8:
    data = MNISTDataModule()
    data.setup("test")
    return np.asarray(data.test_images.images[:200])


def picture_of(digit: UInt8, seed: int, kinds: Collection[str]) -> bytes:
    generator = np.random.default_rng(seed)
    return photograph(write_digit(digit, generator, kinds), generator, kinds)


def distance(first: UInt8, second: UInt8) -> float:
    """Returns the mean difference of pixels, in [0, 1]; a pixel to any side, which rounding may cost, is no matter."""
    shifts = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    return min(float(np.abs(np.roll(first, shift, (0, 1)).astype(float) - second).mean() / 255) for shift in shifts)


def test_an_image_of_mnist_stays_as_it_is(digits: UInt8, tmp_path: Path) -> None:
    for digit in digits:
        Image.fromarray(digit).save(tmp_path / "digit.png")
        (found,) = images.find_digits(tmp_path / "digit.png")
        assert found.image.tobytes() == digit.tobytes()


@pytest.mark.parametrize("kind", ["dark on bright", "bright on dark", "ruled", "squared", "hard shadow"])
def test_a_photograph_becomes_the_image_that_it_was_made_from(digits: UInt8, tmp_path: Path, kind: str) -> None:
    kinds = {*ORDINARY, kind} - {"turned", "dark on bright" if kind == "bright on dark" else ""}
    distances = []
    for number, digit in enumerate(digits[:40]):
        (tmp_path / "photo.jpg").write_bytes(picture_of(digit, number, kinds))
        (found,) = images.find_digits(tmp_path / "photo.jpg")
        distances.append(distance(found.image, digit))
    blank = [distance(np.zeros_like(digit), digit) for digit in digits[:40]]
    assert np.mean(distances) < 0.35 * np.mean(blank)


@pytest.mark.slow
def test_photographs_lose_at_most_a_point_of_accuracy(tmp_path: Path) -> None:
    data = MNISTDataModule()
    data.setup("fit")
    pixels, labels = data.train_images[data.val_indices[:200]]
    photos = []
    for number, digit in enumerate(pixels.numpy()):
        (tmp_path / "photo.jpg").write_bytes(picture_of(digit, number, ORDINARY))
        photos.append(images.find_digits(tmp_path / "photo.jpg")[0].image)
    before, after = (
        (predict(PRETRAINED, seen).argmax(1) == labels).float().mean().item()
        for seen in (pixels, torch.from_numpy(np.stack(photos)))
    )
    assert after >= before - 0.01


def test_lines_in_bad_light_on_squared_paper_are_found_whole(digits: UInt8, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    counts = []
    for start in range(0, 60, 6):
        ink = write_line(digits[start : start + 6], generator)
        (tmp_path / "photo.jpg").write_bytes(photograph(ink, generator, {*ORDINARY, "squared"}))
        counts.append(len(images.find_digits(tmp_path / "photo.jpg", many=True)))
    assert counts.count(6) >= 9


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGB", "jpg"), ("RGBA", "webp"), ("P", "gif"), ("I;16", "tiff"), ("1", "bmp"), ("LA", "png")],
)
def test_every_format_and_mode_is_read(digits: UInt8, tmp_path: Path, mode: str, suffix: str) -> None:
    large = 255 - np.kron(digits[0], np.ones((8, 8), np.uint8))
    path = tmp_path / f"digit.{suffix}"
    picture = Image.fromarray(large)
    if mode == "I;16":
        picture = Image.fromarray(large.astype(np.uint16) * 257)
    elif mode == "RGBA":  # ink on nothing
        picture = Image.merge("RGBA", [*[Image.new("L", picture.size, 0)] * 3, Image.fromarray(255 - large)])
    else:
        picture = picture.convert(mode, dither=Image.Dither.NONE)
    picture.save(path)
    (found,) = images.find_digits(path)
    assert distance(found.image, digits[0]) < 0.06


def test_a_camera_held_sideways_is_undone(digits: UInt8, tmp_path: Path) -> None:
    large = Image.fromarray(255 - np.kron(digits[0], np.ones((8, 8), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    large.rotate(90, expand=True).save(tmp_path / "sideways.jpg", exif=exif)
    (found,) = images.find_digits(tmp_path / "sideways.jpg")
    assert distance(found.image, digits[0]) < 0.06


def test_lines_are_read_in_order_with_their_places(digits: UInt8, tmp_path: Path) -> None:
    page = np.zeros((200, 460), np.uint8)
    numbers = [[0, 1, 2, 3, 5], [4, 6, 7]]
    for row, line in enumerate(numbers):
        for column, number in enumerate(line):
            top, left = 20 + 90 * row + 3 * (column % 2), 20 + 90 * column
            page[top : top + 56, left : left + 56] = np.kron(digits[number], np.ones((2, 2), np.uint8))
    Image.fromarray(255 - page).save(tmp_path / "page.png")
    found = images.find_digits(tmp_path / "page.png", many=True)
    flat = [number for line in numbers for number in line]
    assert len(found) == len(flat)
    for digit, number in zip(found, flat, strict=True):
        assert distance(digit.image, digits[number]) < 0.06
    for place, digit in enumerate(found):
        row, column = divmod(place, 5)
        assert abs(digit.left + digit.width / 2 - (20 + 90 * column + 28)) < 12
        assert abs(digit.top + digit.height / 2 - (20 + 90 * row + 28)) < 12
    assert images.join_lines([(digit, str(number % 10)) for digit, number in zip(found, flat, strict=True)]) == [
        "01235",
        "467",
    ]


def test_a_column_that_drifts_to_the_right_is_three_lines(tmp_path: Path, digits: npt.NDArray[np.uint8]) -> None:
    page = np.full((300, 200), 255, np.uint8)
    for number in range(3):
        page[20 + 90 * number : 76 + 90 * number, 20 + 30 * number : 76 + 30 * number] -= np.kron(
            digits[number], np.ones((2, 2), np.uint8)
        )
    Image.fromarray(page).save(tmp_path / "page.png")
    found = images.find_digits(tmp_path / "page.png", many=True)
    assert images.join_lines([(digit, str(number)) for number, digit in enumerate(found)]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a picture in PNG, JPEG"),
        (b"hello", "is not a picture in PNG, JPEG"),
        ("cut", "is damaged"),
        ("white", "is blank"),
        ("grey noise", "is blank"),
        ("large", "at most 50,000,000 are read"),
        ("larger", "far more pixels than the 50,000,000 that are read"),
        ("bomb", "far more pixels than the 50,000,000 that are read"),
        ("moving", "moves; give a still picture"),
    ],
)
def test_what_can_not_be_read_is_told(tmp_path: Path, content: bytes | str, message: str) -> None:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), "u1")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif content == "white":
        Image.new("L", (50, 50), 255).save(path)
    elif content == "grey noise":
        Image.fromarray((120 + noise // 40).astype(np.uint8)).save(path)
    elif content in ("large", "larger", "bomb"):
        side = {"large": 8000, "larger": 12000, "bomb": 30000}[content]
        Image.new("1", (side, side)).save(path)
    else:
        path = tmp_path / "picture.webp"
        first = Image.fromarray(noise)
        first.save(path, save_all=True, append_images=[Image.fromarray(255 - noise)])
    with pytest.raises(ValueError, match=message):
        images.find_digits(path)


def test_files_come_from_folders_and_patterns_each_once(tmp_path: Path) -> None:
    (tmp_path / "scans" / "more").mkdir(parents=True)
    for name in ("scans/b.PNG", "scans/a", "scans/more/c.jpg", "scans/.hidden", "scans/notes.txt", "single.txt"):
        (tmp_path / name).touch()
    (tmp_path / "scans" / "loop").symlink_to(tmp_path / "scans")
    found = images.find_files([str(tmp_path / "single.txt"), str(tmp_path / "scans"), str(tmp_path / "scans/*.PNG")])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "single.txt",
        "scans/a",
        "scans/b.PNG",
        "scans/more/c.jpg",
    ]
    with pytest.raises(FileNotFoundError, match="leads to no file"):
        images.find_files(["nothing/*.png"])
