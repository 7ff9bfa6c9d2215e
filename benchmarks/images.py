"""Accuracy of `predict --images` on synthetic photos, made from the test images: `python -m benchmarks.images`.

Each test image is enlarged, written on paper, lit and photographed. With `--validation`, the validation images are used
instead, on which `mnist_lightning.images` was developed. `--files 10000` also measures a `predict` of that many files.
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

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks import measure
from benchmarks.accuracy import predict
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import choose, find_digits
from mnist_lightning.runs import folders

UInt8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

ORDINARY = ("scaled", "rotated", "shifted", "dark on light", "lighting gradient", "noise", "JPEG quality 60")
"""Conditions of most photos."""
SPECIAL = ("thin pen", "thick pen", "ruled paper", "graph paper", "hard shadow")
"""Conditions that are more difficult."""


def write_digit(digit: UInt8, generator: np.random.Generator, conditions: Collection[str]) -> Float:
    """Returns a page of ink, in [0, 1], with one digit: `(28, 28)` enlarged by 8 or, if scaled, by 5 to 20."""
    factor = int(generator.integers(5, 21)) if "scaled" in conditions else 8
    large = Image.fromarray(digit).resize((28 * factor, 28 * factor), Image.Resampling.BICUBIC)
    if "rotated" in conditions:
        large = large.rotate(generator.uniform(-10, 10), Image.Resampling.BICUBIC)
    ink = np.asarray(large) / 255
    if "thin pen" in conditions:
        ink = cv2.erode(ink, np.ones((factor, factor)))
    if "thick pen" in conditions:
        ink = cv2.dilate(ink, np.ones((factor, factor)), anchor=((factor - 1) // 2,) * 2)
    if "shifted" in conditions:
        height, width = (int(len(ink) * generator.uniform(1, 1.6)) for _ in range(2))
        page = np.zeros((height, width))
        top, left = generator.integers(0, height - len(ink) + 1), generator.integers(0, width - len(ink) + 1)
        page[top : top + len(ink), left : left + len(ink)] = ink
        ink = page
    return ink


def write_line(digits: Iterable[UInt8], generator: np.random.Generator) -> Float:
    """Returns a page of ink, in [0, 1], with a line of separate digits of varying size, distance and height."""
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


def photograph(ink: Float, generator: np.random.Generator, conditions: Collection[str]) -> bytes:
    """Returns a photo of a page of ink, as the content of a PNG or JPEG file.

    Args:
        ink: `(H, W)` in [0, 1].
        generator: Provides all random numbers.
        conditions: Some of `ORDINARY` and `SPECIAL`.
    """
    height, width = ink.shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    photo = 1 - ink if "dark on light" in conditions else ink
    if "ruled paper" in conditions or "graph paper" in conditions:
        slope = np.tan(np.deg2rad(generator.uniform(-2, 2)))
        rows = np.mgrid[0:height, 0:width][0] + np.mgrid[0:height, 0:width][1] * slope
        columns = np.mgrid[0:height, 0:width][1] - np.mgrid[0:height, 0:width][0] * slope
        pitch, thickness = 0.3 * min(height, width) * generator.uniform(0.6, 1.2), max(1, min(height, width) // 150)
        lines = (rows + generator.uniform(0, pitch)) % pitch < thickness
        if "graph paper" in conditions:
            lines |= (columns + generator.uniform(0, pitch)) % pitch < thickness
        photo = photo * np.where(lines, generator.uniform(0.6, 0.8), 1)
    if "lighting gradient" in conditions:
        angle = generator.uniform(0, 2 * np.pi)
        photo = photo * (0.47 + 0.135 * (np.cos(angle) * x + np.sin(angle) * y + 1.4)) + 0.08
    if "hard shadow" in conditions:
        angle = generator.uniform(0, 2 * np.pi)
        distance = np.cos(angle) * (x - generator.uniform(0.2, 0.8)) + np.sin(angle) * (y - generator.uniform(0.2, 0.8))
        photo = photo * np.clip(0.8 + 20 * distance, generator.uniform(0.5, 0.7), 1)
    if "noise" in conditions:
        photo = photo + generator.normal(0, 0.03, photo.shape)
    stream = io.BytesIO()
    image = Image.fromarray((photo.clip(0, 1) * 255).astype(np.uint8))
    image.save(stream, "JPEG" if "JPEG quality 60" in conditions else "PNG", quality=60)
    return stream.getvalue()


def _measure_digits(
    path: Path, digits: UInt8, labels: UInt8, conditions: Collection[str], folder: Path
) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    found, seconds, num_unreadable = [], 0.0, 0
    for digit in digits:
        photo = folder / "photo"
        photo.write_bytes(photograph(write_digit(digit, generator, conditions), generator, conditions))
        start = time.perf_counter()
        try:
            found.append(find_digits(photo)[0].image)
        except ValueError:
            num_unreadable += 1
            found.append(np.zeros((28, 28), np.uint8))
        seconds += time.perf_counter() - start
    accuracy = 100 * float((_predict(path, found) == labels).mean())
    return {"accuracy %": accuracy, "unreadable": num_unreadable, "ms per image": 1000 * seconds / len(digits)}


def _measure_lines(
    path: Path, digits: UInt8, labels: UInt8, conditions: Collection[str], folder: Path
) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    is_correct, num_digits, num_correct_digits, seconds, start = [], 0, 0, 0.0, 0
    while start + 12 <= len(digits):
        members = slice(start, start + int(generator.integers(3, 13)))
        start = members.stop
        photo = folder / "photo"
        photo.write_bytes(photograph(write_line(digits[members], generator), generator, conditions))
        begin = time.perf_counter()
        found = find_digits(photo, many=True)
        seconds += time.perf_counter() - begin
        rows = predict(path, torch.from_numpy(np.stack([digit.image for digit in found]))).numpy()
        predictions = rows[choose(found, rows)[0]].argmax(1).tolist()
        truth = labels[members].tolist()
        num_digits += len(truth)
        # Sequences are aligned, so that a missing or an extra digit does not make all that follow wrong.
        blocks = SequenceMatcher(None, predictions, truth).get_matching_blocks()
        num_correct_digits += sum(block.size for block in blocks)
        is_correct.append(predictions == truth)
    return {
        "strings": len(is_correct),
        "strings correct %": 100 * float(np.mean(is_correct)),
        "digits correct %": 100 * num_correct_digits / num_digits,
        "ms per image": 1000 * seconds / len(is_correct),
    }


def _predict(path: Path, images: Sequence[UInt8]) -> npt.NDArray[np.int64]:
    predictions: npt.NDArray[np.int64] = predict(path, torch.from_numpy(np.stack(images))).argmax(1).numpy()
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
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest process so far
    return {"images/s": count / seconds, "seconds": seconds, "peak MiB": peak}


def main() -> None:
    """Measures each condition alone and all together, lines of digits, and many files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="?", default="pretrained", help="best, last, pretrained (default) or a file")
    parser.add_argument("--validation", action="store_true", help="use the validation images")
    parser.add_argument("--images", type=int, default=1000, help="for each row (default: 1000)")
    parser.add_argument("--files", type=int, default=0, help="also time predict with 100 and with this many files")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = folders.find_checkpoint(args.ckpt_path)
    data = MNISTDataModule()
    data.setup("fit" if args.validation else "test")
    if args.validation:
        images, targets = data.train_images[data.val_indices], data.train_labels[data.val_indices]
    else:
        images, targets = data.test_images, data.test_labels
    chosen = np.random.default_rng(0).permutation(len(targets))[: args.images]
    digits, labels = images.numpy()[chosen], targets.numpy()[chosen]
    ordinary = set(ORDINARY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[dict[str, Any]] = [
            {"kind": "originals", "accuracy %": 100 * float((_predict(path, list(digits)) == labels).mean())}
        ]
        kinds = {condition: {condition} for condition in ORDINARY}
        kinds |= {"all of these": ordinary, **{f"all, {special}": {*ordinary, special} for special in SPECIAL}}
        for kind, conditions in kinds.items():
            rows.append({"kind": kind, **_measure_digits(path, digits, labels, conditions, folder)})
        kinds = {
            "lines of digits": set(),
            "lines, all": ordinary,
            "lines, all, graph paper": {*ordinary, "graph paper"},
        }
        for kind, conditions in kinds.items():
            rows.append({"kind": kind, **_measure_lines(path, digits, labels, conditions, folder)})
        for count in (100, args.files) if args.files else ():
            files_dir = folder / str(count)
            files_dir.mkdir()
            rows.append({"kind": f"{count:,} files", **_measure_files(path, digits, count, files_dir)})
    columns = ["kind", "accuracy %", "unreadable", "strings correct %", "digits correct %", "ms per image"]
    measure.report("images", rows, [*columns, "images/s", "peak MiB"], args.output)


if __name__ == "__main__":
    main()
