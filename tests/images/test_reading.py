"""Image files of any format are read the same, and unusable ones are reported."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_lightning.errors import UserError
from mnist_lightning.images import find_digits, reading
from mnist_lightning.images.reading import ImageError, find_files, read_image
from tests.conftest import UInt8, scan


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGB", "jpg"), ("RGBA", "webp"), ("P", "gif"), ("I;16", "tiff"), ("1", "bmp"), ("LA", "png")],
)
def test_every_format_and_mode_is_read(mnist_images: UInt8, tmp_path: Path, mode: str, suffix: str) -> None:
    pixels = scan(mnist_images[0])
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode == "RGBA":  # ink on nothing
        image = Image.merge("RGBA", [*[Image.new("L", image.size, 0)] * 3, Image.fromarray(255 - pixels)])
    else:
        image = image.convert(mode, dither=Image.Dither.NONE)
    image.save(tmp_path / f"digit.{suffix}")
    found = read_image(tmp_path / f"digit.{suffix}")
    expected = np.where(pixels > 127, 1, 0) if mode == "1" else pixels / 255
    assert (found.shape, str(found.dtype)) == (pixels.shape, "float32")
    assert np.abs(found - expected).mean() < 0.005


def test_exif_orientation_is_applied(mnist_images: UInt8, tmp_path: Path) -> None:
    pixels = scan(mnist_images[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    Image.fromarray(pixels).rotate(90, expand=True).save(tmp_path / "sideways.jpg", exif=exif)
    assert np.abs(read_image(tmp_path / "sideways.jpg") - pixels / 255).mean() < 0.005


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 415, "is not in a supported format; use PNG, JPEG, WEBP, BMP, TIFF, GIF"),
        (b"hello", 415, "is not in a supported format; use PNG, JPEG, WEBP, BMP, TIFF, GIF"),
        ("cut", 422, r"is damaged \("),
        ("white", 422, "is blank: nothing stands out from the paper"),
        ("gray noise", 422, "is blank: nothing stands out from the paper"),
        ("large", 413, "has 8,000 x 8,000 pixels; the limit is 50,000,000$"),
        ("larger", 413, "has far more pixels than the limit of 50,000,000$"),
        ("largest", 413, "has far more pixels than the limit of 50,000,000$"),
        ("long", 413, "has 50,000,001 bytes; the limit is 50,000,000$"),
        ("animated", 422, "is animated; use a still image$"),
    ],
)
def test_unusable_image_is_reported(tmp_path: Path, content: bytes | str, status: int, message: str) -> None:
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), "u1")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif content == "white":
        Image.new("L", (50, 50), 255).save(path)
    elif content == "gray noise":
        Image.fromarray((120 + noise // 40).astype(np.uint8)).save(path)
    elif content == "long":
        path.touch()
        os.truncate(path, reading.MAX_BYTES + 1)
    elif content == "animated":
        first = Image.fromarray(noise)
        first.save(path, "webp", save_all=True, append_images=[Image.fromarray(255 - noise)])
    else:
        side = {"large": 8000, "larger": 12000, "largest": 30000}[content]
        Image.new("1", (side, side)).save(path)
    with pytest.raises(ImageError, match=f"^{path} {message}") as error:
        find_digits(path)
    assert error.value.status == status


def test_pixel_limit_is_configurable(tmp_path: Path) -> None:
    Image.new("L", (101, 100)).save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()
    assert read_image(content, max_pixels=10_100).shape == (100, 101)
    with pytest.raises(ImageError, match=r"^the image has 101 x 100 pixels; the limit is 10,099$"):
        read_image(content, max_pixels=10_099)


def test_folders_and_patterns_expand_without_duplicates(tmp_path: Path) -> None:
    (tmp_path / "scans" / "more").mkdir(parents=True)
    for name in ("scans/b.PNG", "scans/a", "scans/more/c.jpg", "scans/.hidden", "scans/notes.txt", "single.txt"):
        (tmp_path / name).touch()
    (tmp_path / "scans" / "loop").symlink_to(tmp_path / "scans")
    found = find_files([str(tmp_path / "single.txt"), str(tmp_path / "scans"), str(tmp_path / "scans/*.PNG")])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "single.txt",
        "scans/a",
        "scans/b.PNG",
        "scans/more/c.jpg",
    ]


def test_path_without_files_is_reported() -> None:
    with pytest.raises(UserError) as error:
        find_files(["nothing/*.png"])
    assert str(error.value) == ("--images nothing/*.png matches no file; use files, folders or a quoted pattern")
