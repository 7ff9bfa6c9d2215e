"""Numbers whose digits touch, and whole pages, read with `--digits many`: `python -m benchmarks.strings`.

Strings of 2 to 6 digits are written with the test images, enlarged. In `touching`, every other pair of neighbors meets
in ink, or overlaps by up to 15% of a digit's width; in `joined`, a stroke of the pen leads from each digit to the next.
Pages are A4 at 300 dots per inch, with 12 lines of 8 digits. With `--validation`, the validation images are used
instead, on which segmentation was developed; `joined` strings were kept out of that.
"""

import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks import measure
from benchmarks.accuracy import probabilities
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import MIN_KNOWN, choose, find_digits
from mnist_lightning.models.classifier import Classifier
from mnist_lightning.models.ensemble import rebuild
from mnist_lightning.runs import checkpoints, folders

UInt8 = npt.NDArray[np.uint8]
Ink = npt.NDArray[np.float32]  # `(H, W)` in [0, 1]

SURE = 0.9
PAGE = (3508, 2480)  # pixels
SIZES = (20, 30, 44, 64, 82, 120)  # height of a page's digits, in pixels


def enlarge(digit: UInt8, height: int) -> Ink:
    """Returns the ink of a digit `(28, 28)`, cropped, with the given height in pixels."""
    rows, columns = np.flatnonzero(digit.max(1) > 80), np.flatnonzero(digit.max(0) > 80)
    cropped = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(3, round(height * cropped.shape[1] / cropped.shape[0]))
    large = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return np.asarray((large / 255 - 0.5) * height / 20 + 0.5, np.float32).clip(0, 1)


def write_string(digits: Sequence[UInt8], rng: np.random.Generator, kind: str) -> Ink:
    """Returns a page of ink with a number: `separate`, `touching` or `joined` digits."""
    size = int(rng.integers(40, 110))
    page = np.zeros((2 * size, 3 * size * len(digits)), np.float32)
    right, touches = size // 2, bool(rng.random() < 0.5)
    middle: tuple[int, int] | None = None
    for digit in digits:
        ink = enlarge(digit, round(size * rng.uniform(0.85, 1.15)))
        height, width = ink.shape
        top = size - height // 2 + round(size * rng.uniform(-0.1, 0.1))
        left = right + round(size * rng.uniform(0.1, 0.4))
        if kind == "touching" and touches and middle:
            left = min(_touch(page, ink, top), right - round(width * rng.uniform(0, 0.15)))
        area = page[top : top + height, left : left + width]
        np.maximum(area, ink, out=area)
        if kind == "joined" and middle:
            row = int(np.argmax(ink[:, : max(1, width // 8)].sum(1) + ink[:, :1].sum(1))) + top
            stroke = max(2, round(size * rng.uniform(0.06, 0.1)))
            cv2.line(page, middle, (left + width // 8, row), 1.0, stroke, cv2.LINE_AA)
        right, touches = left + width, not touches
        edge = ink[height // 2 :, -max(1, width // 8) :].sum(1)
        middle = (right - width // 8, top + height // 2 + int(edge.argmax()))
    return page[:, : right + size // 2]


def _touch(page: Ink, ink: Ink, top: int) -> int:
    """Returns the leftmost column at which a digit meets the ink on the page, and does not overlap it."""
    written = page[top : top + len(ink)] > 0.5
    last = np.where(written.any(1), written.shape[1] - 1 - written[:, ::-1].argmax(1), -(10**6))
    has_ink = (ink > 0.5).any(1)
    first = np.where(has_ink, (ink > 0.5).argmax(1), 10**6)
    meeting = int((last - first).max()) + 1
    overall = int(np.flatnonzero((page > 0.5).any(0))[-1])
    return meeting if meeting > 0 else overall


def write_page(digits: Sequence[UInt8], rng: np.random.Generator, size: int) -> Ink:
    """Returns a page with 12 lines of 8 separate digits."""
    page = np.zeros(PAGE, np.float32)
    for index, digit in enumerate(digits[:96]):
        ink = enlarge(digit, round(size * rng.uniform(0.9, 1.1)))
        top = 300 + 250 * (index // 8) + round(size * rng.uniform(-0.15, 0.15))
        left = 300 + 240 * (index % 8) + int(rng.integers(-20, 20))
        page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


def write_strip(digits: Sequence[UInt8], rng: np.random.Generator) -> Ink:
    """Returns a strip, 10,000 pixels wide, with a line of separate digits that are 44 pixels high."""
    page = np.zeros((120, 10_000), np.float32)
    for index, digit in enumerate(digits):
        ink = enlarge(digit, round(44 * rng.uniform(0.9, 1.1)))
        top, left = int(rng.integers(25, 45)), 50 + 110 * index + int(rng.integers(0, 40))
        page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


def png(ink: Ink, rng: np.random.Generator) -> bytes:
    """Returns a scan of ink, dark on light and with a little noise, as the content of a PNG file."""
    noise = np.asarray(rng.standard_normal(ink.shape, np.float32))
    pixels = (245 - 205 * ink + 3 * noise).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def read(model: Classifier, content: bytes, many: bool = True) -> tuple[list[int | None], bool]:
    """Returns the digits in a picture, None for what is no digit, and whether all are sure: as `predict` does."""
    digits = find_digits(content, many)
    found = probabilities(model, torch.from_numpy(np.stack([digit.image for digit in digits]))).numpy()
    chosen, confidences = choose(digits, found)
    rows = found[chosen]
    classes = [int(row.argmax()) if 1 - row.size * row.min() >= MIN_KNOWN else None for row in rows]
    return classes, min(confidences) >= SURE


def measure_strings(model: Classifier, strings: Iterator[tuple[bytes, list[int]]], many: bool = True) -> dict[str, Any]:
    """Returns how many strings are read right, and how many are read wrongly although each digit is sure."""
    found = [(read(model, content, many), truth) for content, truth in strings]
    right = np.array([classes == truth for (classes, _), truth in found])
    sure = np.array([is_sure for (_, is_sure), _ in found])
    return {
        "pictures": len(right),
        "right %": 100 * float(right.mean()),
        "right and sure %": 100 * float((right & sure).mean()),
        "wrong and sure %": 100 * float((~right & sure).mean()),
    }


def measure_page(model: Classifier, content: bytes, truth: list[int]) -> dict[str, Any]:
    """Returns how many of a page's digits are read right; sequences are aligned, so that a missing one counts once."""
    classes, _ = read(model, content)
    blocks = SequenceMatcher(None, classes, truth, autojunk=False).get_matching_blocks()
    return {"found": len(classes), "digits": len(truth), "right": sum(block.size for block in blocks)}


def main() -> None:
    """Measures single digits, strings of each kind, pages with digits of several sizes, and a strip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="?", default="pretrained", help="best, last, pretrained (default) or a file")
    parser.add_argument("--validation", action="store_true", help="use the validation images")
    parser.add_argument("--strings", type=int, default=400, help="of each kind (default: 400)")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = rebuild(checkpoints.read(folders.find_checkpoint(args.ckpt_path)))
    data = MNISTDataModule()
    data.setup("fit" if args.validation else "test")
    if args.validation:
        images, labels = data.train_images[data.val_indices].numpy(), data.train_labels[data.val_indices].tolist()
    else:
        images, labels = data.test_images.numpy(), data.test_labels.tolist()

    def pictures(
        write: Callable[[list[UInt8], np.random.Generator], Ink], sizes: Sequence[int]
    ) -> Iterator[tuple[bytes, list[int]]]:
        rng = np.random.default_rng(0)
        order, start = rng.permutation(len(labels)), 0
        for size in sizes:
            members = order[start : start + size]
            start = (start + size) % (len(order) - 100)
            yield png(write([images[n] for n in members], rng), rng), [labels[n] for n in members]

    rows: list[dict[str, Any]] = []
    lengths = np.random.default_rng(0).integers(2, 7, args.strings).tolist()
    for kind in ("separate", "touching", "joined"):
        strings = pictures(lambda digits, rng, kind=kind: write_string(digits, rng, kind), lengths)  # type: ignore[misc]
        rows.append({"kind": kind, **measure_strings(model, strings)})
    for many in (False, True):
        singles = pictures(lambda digits, rng: write_string(digits, rng, "separate"), [1] * 2 * args.strings)
        name = f"one digit, with --digits {'many' if many else 'one'}"
        rows.append({"kind": name, **measure_strings(model, singles, many)})
    for height in SIZES:
        ((content, truth),) = pictures(lambda digits, rng, height=height: write_page(digits, rng, height), [96])  # type: ignore[misc]
        rows.append({"kind": f"page, {height} pixels", **measure_page(model, content, truth)})
    ((content, truth),) = pictures(write_strip, [90])
    rows.append({"kind": "strip, 44 pixels", **measure_page(model, content, truth)})
    columns = ["kind", "pictures", "right %", "right and sure %", "wrong and sure %", "digits", "found", "right"]
    measure.report("strings", rows, columns, args.output)


if __name__ == "__main__":
    main()
