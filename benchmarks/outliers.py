"""What a model says about pictures that show no digit: `python -m benchmarks.outliers best`.

Two kinds: shapes drawn with a pen, and printed letters that do not look like digits, all found in a picture as
`predict --images` does. Training draws neither. Beside them, other people's digits: UCI's, of 8x8 pixels, enlarged.
With `--validation`, other shapes, Greek and Cyrillic letters and symbols, and MNIST's own digits reduced to 8x8 pixels
take their place; training is chosen by them.

A picture is accepted if its confidence is at least that which 99% of MNIST's test (or validation) images reach.
"""

import argparse
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from benchmarks import measure
from benchmarks.accuracy import predict
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import find_digits
from mnist_lightning.runs import folders

NUM_PICTURES = 300
FONTS: Sequence[str] = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "cmr10", "STIXGeneral")
LETTERS = "AEFHKMNPRTUVWXYadefhkmnprtuvwxy"
"""Letters that no digit looks like: not B, D, G, I, J, L, O, Q, S, Z, b, g, i, j, l, o, q, s and z, nor C and c."""
SYMBOLS = "ΓΔΛΞΠΣΦΨΩαεηκλμπτφχψωЖИЮФЦШЩЫЯджлю∫√∇≈≠±÷↑&@?!€£¥¶+=*~{}[]<>♠♦♣"
SYMBOL_FONTS = FONTS[:3]
"""For `--validation`, with fonts that have all of these."""

Line = list[tuple[float, float]]  # points in [-1, 1]


def _arc(x: float, y: float, radius: float, start: float = 0, end: float = 2 * math.pi) -> Line:
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in np.linspace(start, end, 40)]


def _curve(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Line:
    return list(zip(x.tolist(), y.tolist(), strict=True))


T = np.linspace(0, 2 * math.pi, 90)
SHAPES: dict[str, list[Line]] = {
    "heart": [_curve(np.sin(T) ** 3, -(13 * np.cos(T) - 5 * np.cos(2 * T) - 2 * np.cos(3 * T) - np.cos(4 * T)) / 16)],
    "star": [[(math.sin(angle), -math.cos(angle)) for angle in np.arange(6) * 0.8 * math.pi]],
    "smiley": [_arc(0, 0, 1), _arc(-0.35, -0.3, 0.08), _arc(0.35, -0.3, 0.08), _arc(0, 0, 0.6, 0.3, math.pi - 0.3)],
    "house": [
        [(-0.8, 1), (-0.8, -0.2), (0, -1), (0.8, -0.2), (0.8, 1), (-0.8, 1)],
        [(0.2, 1), (0.2, 0.3), (-0.2, 0.3)],
    ],
    "arrow": [[(-1, 0), (1, 0)], [(0.4, -0.6), (1, 0), (0.4, 0.6)]],
    "spiral": [_curve(T / 7 * np.cos(3 * T), T / 7 * np.sin(3 * T))],
    "flower": [_arc(0.6 * math.cos(a), 0.6 * math.sin(a), 0.35) for a in np.arange(6) * math.pi / 3],
    "hash sign": [[(-0.3, -1), (-0.4, 1)], [(0.4, -1), (0.3, 1)], [(-1, -0.35), (1, -0.35)], [(-1, 0.35), (1, 0.35)]],
    "percent sign": [_arc(-0.6, -0.6, 0.3), _arc(0.6, 0.6, 0.3), [(0.7, -1), (-0.7, 1)]],
    "wave": [_curve(T / math.pi - 1, 0.4 * np.sin(3 * T))],
}
VALIDATION_SHAPES: dict[str, list[Line]] = {
    "triangle": [[(0, -1), (1, 0.8), (-1, 0.8), (0, -1)]],
    "square": [[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8), (-0.8, -0.8)]],
    "plus sign": [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    "flash": [[(0.3, -1), (-0.5, 0.1), (0.4, 0), (-0.4, 1)]],
    "moon": [_arc(0, 0, 1, 0.8, 2 * math.pi - 0.8), _arc(0.7, 0, 0.72, 1.6, 2 * math.pi - 1.6)],
    "tree": [[(0, 1), (0, 0.3)], [(0, -1), (0.8, 0.3), (-0.8, 0.3), (0, -1)]],
    "hourglass": [[(-0.7, -1), (0.7, -1), (-0.7, 1), (0.7, 1), (-0.7, -1)]],
    "envelope": [[(-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6), (-1, -0.6), (0, 0.1), (1, -0.6)]],
    "ladder": [[(-0.4, -1), (-0.4, 1)], [(0.4, -1), (0.4, 1)], *([(-0.4, y), (0.4, y)] for y in (-0.6, 0.0, 0.6))],
    "umbrella": [[*_arc(0, 0, 1, math.pi, 2 * math.pi), (-1, 0)], [(0, 0), (0, 0.8), (0.2, 1), (0.4, 0.8)]],
    "stick figure": [_arc(0, -0.7, 0.3), [(0, -0.4), (0, 0.3), (-0.5, 1)], [(0, 0.3), (0.5, 1)], [(-0.6, 0), (0.6, 0)]],
    "flag": [[(-0.6, 1), (-0.6, -1), (0.7, -0.9), (0.7, -0.1), (-0.6, -0.1)]],
}


def draw_shape(lines: list[Line], rng: np.random.Generator) -> bytes:
    """Draws a shape as on the page, 560 x 560 pixels, shaky, turned a little, in any size; returns a PNG file."""
    image = Image.new("L", (560, 560), 255)
    size, turn, pen = rng.uniform(90, 200), rng.uniform(-0.25, 0.25), round(rng.uniform(14, 44))
    stretch = rng.uniform(0.8, 1.25)
    canvas = ImageDraw.Draw(image)
    for line in lines:
        x, y = np.array(line).T
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        wobble = rng.normal(0, 0.03, (2, len(x)))
        points = np.stack([280 + size * stretch * (x + wobble[0]), 280 + size * (y + wobble[1])], 1)
        canvas.line([tuple(point) for point in points.tolist()], fill=0, width=pen, joint="curve")
        for px, py in points.tolist():
            canvas.ellipse((px - pen / 2, py - pen / 2, px + pen / 2, py + pen / 2), fill=0)
    return _png(image)


def print_letter(letter: str, font: str, rng: np.random.Generator) -> bytes:
    """Prints a letter in the middle of 560 x 560 pixels; returns a PNG file."""
    image = Image.new("L", (560, 560), 255)
    path = font_manager.findfont(font)
    ImageDraw.Draw(image).text((280, 280), letter, 0, ImageFont.truetype(path, round(rng.uniform(200, 420))), "mm")
    return _png(image)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _find(pictures: list[bytes]) -> Tensor:
    return torch.from_numpy(np.stack([find_digits(picture)[0].image for picture in pictures]))


def shapes(kinds: dict[str, list[Line]]) -> Tensor:
    """Returns shapes `(N, 28, 28)` uint8, as many of each."""
    rng = np.random.default_rng(0)
    chosen = itertools.islice(itertools.cycle(kinds.values()), NUM_PICTURES)
    return _find([draw_shape(lines, rng) for lines in chosen])


def letters(alphabet: str, fonts: Sequence[str]) -> Tensor:
    """Returns letters `(N, 28, 28)` uint8."""
    rng = np.random.default_rng(0)
    chosen = [(alphabet[i % len(alphabet)], fonts[i % len(fonts)]) for i in range(NUM_PICTURES)]
    return _find([print_letter(letter, font, rng) for letter, font in chosen])


def enlarge(images: npt.NDArray[np.uint8]) -> Tensor:
    """Returns digits of 8x8 pixels `(N, 8, 8)`, light ink, enlarged on a sheet of paper: `(N, 28, 28)` uint8."""
    sheets = [ImageOps.expand(Image.fromarray(255 - image), border=2, fill=255) for image in images]
    return _find([_png(sheet.resize((168, 168), Image.Resampling.BICUBIC)) for sheet in sheets])


def uci_digits() -> tuple[Tensor, Tensor]:
    """Returns UCI's digits `(1797, 28, 28)` uint8 by 13 people, and their labels."""
    from sklearn.datasets import load_digits  # in the extra `benchmarks`

    images, labels = load_digits(return_X_y=True)
    return enlarge((images.reshape(-1, 8, 8) * 15.9).astype(np.uint8)), torch.from_numpy(labels)


def coarse_digits(images: Tensor) -> Tensor:
    """Returns MNIST's digits `(N, 28, 28)` uint8 as if they had 8x8 pixels."""
    digits = [Image.fromarray(image[4:24, 4:24]).resize((8, 8), Image.Resampling.BOX) for image in images.numpy()]
    return enlarge(np.stack([np.asarray(digit) for digit in digits]))


def describe(name: str, probabilities: Tensor, threshold: float, labels: Tensor | None = None) -> dict[str, Any]:
    """Returns a row of the table, in %."""
    confidences, predictions = probabilities.max(1)
    shares = {"confidence of 0.9 or more %": confidences >= 0.9, "accepted %": confidences >= threshold}
    if labels is not None:
        shares = {"right %": predictions == labels, **shares}
    row = {column: 100 * share.float().mean().item() for column, share in shares.items()}
    return {"pictures": name, "number": len(probabilities), **row}


def draw_sheet(paths: Sequence[Path], output: Path) -> None:
    """Draws forty of the pictures, each with what every checkpoint says about it."""
    digits, labels = uci_digits()
    hard = (predict(paths[0], digits).argmax(1) != labels).nonzero().flatten()[:10]  # what the first one gets wrong
    names = ["shape"] * 15 + ["letter"] * 15 + [f"a {label}" for label in labels[hard].tolist()]
    images = torch.cat([shapes(SHAPES)[:15], letters(LETTERS, FONTS)[:15], digits[hard]])
    answers = [predict(path, images).max(1) for path in paths]
    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    for index, (axes, name, image) in enumerate(zip(figure.subplots(4, 10).flat, names, images, strict=True)):
        said = [f"{prediction[index]}  {confidence[index]:.0%}" for confidence, prediction in answers]
        axes.imshow(255 - image, cmap="gray", vmin=0, vmax=255)
        axes.set_title("\n".join([name, *said]), fontsize=9)
        axes.axis("off")
    figure.savefig(output)


def score(path: Path, is_validation: bool) -> list[dict[str, Any]]:
    """Returns the rows of the table for a checkpoint."""
    data = MNISTDataModule()
    data.setup("fit" if is_validation else "test")
    if is_validation:
        images, labels = data.train_images[data.val_indices], data.train_labels[data.val_indices]
        others = {"shapes": shapes(VALIDATION_SHAPES), "symbols": letters(SYMBOLS, SYMBOL_FONTS)}
    else:
        images, labels = data.test_images, data.test_labels
        others = {"shapes": shapes(SHAPES), "letters": letters(LETTERS, FONTS)}
    clean = predict(path, images)
    threshold = clean.max(1).values.sort().values[len(clean) // 100].item()
    rows = [describe(f"MNIST's {'validation' if is_validation else 'test'} images", clean, threshold, labels)]
    name = "MNIST's digits in 8x8 pixels" if is_validation else "UCI's digits"
    digits, labels = (coarse_digits(images), labels) if is_validation else uci_digits()
    rows.append(describe(name, predict(path, digits), threshold, labels))
    return rows + [describe(name, predict(path, pictures), threshold) for name, pictures in others.items()]


def main() -> None:
    """Measures a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path", nargs="?", default="pretrained", help="best, last, pretrained (default) or a file")
    parser.add_argument("--validation", action="store_true", help="use other digits, shapes and letters")
    parser.add_argument("--sheet", nargs="+", metavar="FILE", help="only draw a PNG file, also of further checkpoints")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args()
    path = folders.find_checkpoint(args.ckpt_path)
    if args.sheet:
        draw_sheet([path, *map(folders.find_checkpoint, args.sheet[1:])], Path(args.sheet[0]))
        return
    rows = score(path, args.validation)
    measure.report("outliers_validation" if args.validation else "outliers", rows, list(rows[0]), args.output)


if __name__ == "__main__":
    main()
