"""Accuracy on pictures made from MNIST's images by the reverse way: written large on paper, lit, photographed.

With `--validation` they come from the validation images instead of the test images, which is how `images.py` was
made. `python -m benchmarks.pictures --files 10000` also measures a whole `predict` of that many pictures.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from benchmarks import measure
from benchmarks.accuracy import predict
from mnist_lightning import images, runs
from mnist_lightning.data import MNISTDataModule

UInt8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

ORDINARY = ("scaled", "turned", "moved", "dark on bright", "gradient", "noise", "JPEG 60")
SPECIAL = ("thin pen", "thick pen", "ruled", "squared", "hard shadow")


def write_digit(digit: UInt8, generator: np.random.Generator, kinds: Collection[str]) -> Float:
    """Returns a digit `(28, 28)` as ink in [0, 1] on a page of its own, 8 times as large or, scaled, 5 to 20 times."""
    factor = int(generator.integers(5, 21)) if "scaled" in kinds else 8
    large = Image.fromarray(digit).resize((28 * factor, 28 * factor), Image.Resampling.BICUBIC)
    if "turned" in kinds:
        large = large.rotate(generator.uniform(-10, 10), Image.Resampling.BICUBIC)
    ink = np.asarray(large) / 255
    if "thin pen" in kinds:
        ink = ndimage.grey_erosion(ink, size=(factor, factor))
    if "thick pen" in kinds:
        ink = ndimage.grey_dilation(ink, size=(factor, factor))
    if "moved" in kinds:
        height, width = (int(len(ink) * generator.uniform(1, 1.6)) for _ in range(2))
        page = np.zeros((height, width))
        top, left = generator.integers(0, height - len(ink) + 1), generator.integers(0, width - len(ink) + 1)
        page[top : top + len(ink), left : left + len(ink)] = ink
        ink = page
    return ink


def write_line(digits: Iterable[UInt8], generator: np.random.Generator) -> Float:
    """Returns a line of separate digits as ink in [0, 1]: unequal in size, gaps and height above the line."""
    page = np.zeros((190, 2000))
    left = 30
    for digit in digits:
        size = int(28 * generator.uniform(3, 4.2))
        ink = np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)) / 255
        ink = ink[:, (ink > 0.1).any(0)]
        top = int(generator.integers(25, 165 - size))
        page[top : top + size, left : left + ink.shape[1]] = ink
        left += ink.shape[1] + int(generator.integers(10, 40))
    return page[:, : left + 20]


def photograph(ink: Float, generator: np.random.Generator, kinds: Collection[str]) -> bytes:
    """Returns a page of ink as a PNG or JPEG file.

    Args:
        ink: `(H, W)` in [0, 1].
        generator: The only source of chance.
        kinds: Which of `ORDINARY` and `SPECIAL` happen to it.
    """
    height, width = ink.shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = 1 - ink if "dark on bright" in kinds else ink
    if "ruled" in kinds or "squared" in kinds:
        turned = np.deg2rad(generator.uniform(-2, 2))
        rows = np.mgrid[0:height, 0:width][0] + np.mgrid[0:height, 0:width][1] * np.tan(turned)
        columns = np.mgrid[0:height, 0:width][1] - np.mgrid[0:height, 0:width][0] * np.tan(turned)
        pitch, thickness = 0.3 * min(height, width) * generator.uniform(0.6, 1.2), max(1, min(height, width) // 150)
        lines = (rows + generator.uniform(0, pitch)) % pitch < thickness
        if "squared" in kinds:
            lines |= (columns + generator.uniform(0, pitch)) % pitch < thickness
        picture = picture * np.where(lines, generator.uniform(0.6, 0.8), 1)
    if "gradient" in kinds:
        angle = generator.uniform(0, 2 * np.pi)
        picture = picture * (0.47 + 0.135 * (np.cos(angle) * x + np.sin(angle) * y + 1.4)) + 0.08
    if "hard shadow" in kinds:
        angle = generator.uniform(0, 2 * np.pi)
        distance = np.cos(angle) * (x - generator.uniform(0.2, 0.8)) + np.sin(angle) * (y - generator.uniform(0.2, 0.8))
        picture = picture * np.clip(0.8 + 20 * distance, generator.uniform(0.5, 0.7), 1)
    if "noise" in kinds:
        picture = picture + generator.normal(0, 0.03, picture.shape)
    stream = io.BytesIO()
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    image.save(stream, "JPEG" if "JPEG 60" in kinds else "PNG", quality=60)
    return stream.getvalue()


def _measure_kinds(path: Path, digits: UInt8, labels: UInt8, kinds: Collection[str], folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    found, seconds, num_unread = [], 0.0, 0
    for digit in digits:
        picture = folder / "picture"
        picture.write_bytes(photograph(write_digit(digit, generator, kinds), generator, kinds))
        start = time.perf_counter()
        try:
            found.append(images.find_digits(picture)[0].image)
        except ValueError:
            num_unread += 1
            found.append(np.zeros((28, 28), np.uint8))
        seconds += time.perf_counter() - start
    accuracy = 100 * float((_read(path, found) == labels).mean())
    return {"accuracy %": accuracy, "not read": num_unread, "ms a picture": 1000 * seconds / len(digits)}


def _measure_lines(path: Path, digits: UInt8, labels: UInt8, kinds: Collection[str], folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    right, num_digits, num_right_digits, seconds, start = [], 0, 0, 0.0, 0
    while start + 12 <= len(digits):
        members = slice(start, start + int(generator.integers(3, 13)))
        start = members.stop
        picture = folder / "picture"
        picture.write_bytes(photograph(write_line(digits[members], generator), generator, kinds))
        begin = time.perf_counter()
        found = images.find_digits(picture, many=True)
        seconds += time.perf_counter() - begin
        read = _read(path, [digit.image for digit in found]).tolist()
        truth = labels[members].tolist()
        num_digits += len(truth)
        # In their order, so that one digit too many or too few does not spoil those behind it.
        num_right_digits += sum(block.size for block in SequenceMatcher(None, read, truth).get_matching_blocks())
        right.append(read == truth)
    return {
        "strings": len(right),
        "strings right %": 100 * float(np.mean(right)),
        "digits right %": 100 * num_right_digits / num_digits,
        "ms a picture": 1000 * seconds / len(right),
    }


def _read(path: Path, found: Sequence[UInt8]) -> npt.NDArray[np.int64]:
    predictions: npt.NDArray[np.int64] = predict(path, torch.from_numpy(np.stack(found))).argmax(1).numpy()
    return predictions


def _measure_files(ckpt_path: Path, digits: UInt8, count: int, folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    contents = [photograph(write_digit(digit, generator, ORDINARY), generator, ORDINARY) for digit in digits]
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(contents[number % len(contents)])
    command = [sys.executable, "-m", "mnist_lightning", "predict", "--images", str(folder), "--ckpt_path"]
    command += [str(ckpt_path.absolute()), "--trainer.accelerator", "cpu", "--output", str(folder.with_suffix(".csv"))]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest child so far
    return {"pictures/s": count / seconds, "seconds": seconds, "peak MiB": peak}


def main() -> None:
    """Measures each disturbance alone, all together, lines of digits, and many files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="?", default="pretrained", help="best, last, pretrained or a file")
    parser.add_argument("--validation", action="store_true", help="photograph the validation images")
    parser.add_argument("--pictures", type=int, default=1000, help="of each kind")
    parser.add_argument("--files", type=int, default=0, help="pictures that one predict reads; after 100")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = runs.find(args.ckpt_path, Path("lightning_logs"))
    data = MNISTDataModule()
    data.setup("fit" if args.validation else "test")
    pixels, targets = data.train_images[data.val_indices] if args.validation else data.test_images[data.test_indices]
    chosen = np.random.default_rng(0).permutation(len(targets))[: args.pictures]
    digits, labels = pixels.numpy()[chosen], targets.numpy()[chosen]
    ordinary = set(ORDINARY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[dict[str, Any]] = [
            {"pictures": "originals", "accuracy %": 100 * float((_read(path, list(digits)) == labels).mean())}
        ]
        kinds_of = {kind: {kind} for kind in ORDINARY}
        kinds_of |= {"all of these": ordinary, **{f"all and {kind}": {*ordinary, kind} for kind in SPECIAL}}
        rows += [
            {"pictures": name, **_measure_kinds(path, digits, labels, kinds, folder)}
            for name, kinds in kinds_of.items()
        ]
        kinds_of = {"lines": set(), "lines, all": ordinary, "lines, all and squared": {*ordinary, "squared"}}
        rows += [
            {"pictures": name, **_measure_lines(path, digits, labels, kinds, folder)}
            for name, kinds in kinds_of.items()
        ]
        for count in (100, args.files) if args.files else ():
            place = folder / str(count)
            place.mkdir()
            rows.append({"pictures": f"{count:,} files", **_measure_files(path, digits, count, place)})
    columns = ["pictures", "accuracy %", "not read", "strings right %", "digits right %", "ms a picture"]
    measure.report("pictures", rows, [*columns, "pictures/s", "peak MiB"], args.output)


if __name__ == "__main__":
    main()
