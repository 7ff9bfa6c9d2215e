"""Sheets: images with texts, in rows of ten below headings. Pillow draws them in a fifth of matplotlib's time.

Images are `(H, W)` or, in color, `(H, W, 3)`, uint8, of any size.
"""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mnist_lightning.reporting.figures import FONT, Pixels

UNSURE = 0.8  # a picture with a lower confidence may show no digit at all; docs/commands.md says how it was chosen
SIDE = 84  # pixels of an image on a sheet


class Results(NamedTuple):
    """N images of C classes, their labels, and the probabilities that a model gave them."""

    images: Tensor  # (N, H, W) or, in color, (N, H, W, 3), uint8
    labels: Tensor  # (N,) int64
    probabilities: Tensor  # (N, C) float32
    class_names: Sequence[str]
    suspected: Collection[int] = ()  # indices of labels that may be wrong

    @property
    def confidences(self) -> Tensor:
        return self.probabilities.amax(1)

    @property
    def predictions(self) -> Tensor:
        return self.probabilities.argmax(1)

    @property
    def mistakes(self) -> list[int]:
        """The indices of wrong predictions, the most confident first."""
        order = self.confidences.argsort(descending=True, stable=True)
        return order[(self.predictions != self.labels)[order]].tolist()

    def describe(self, index: int) -> str:
        """Returns label and prediction of an image, such as `4 as 9`."""
        label, prediction = int(self.labels[index]), int(self.probabilities[index].argmax())
        return f"{self.class_names[label]} as {self.class_names[prediction]}"


class Tile(NamedTuple):
    """An image and the text above it."""

    pixels: Pixels
    text: str = ""
    color: str = "black"


def draw(title: str, groups: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Draws groups of images, each below a heading, unless that is empty."""
    font, bold = (ImageFont.truetype(FONT.replace(".ttf", f"{style}.ttf"), 13) for style in ("", "-Bold"))
    tiles = [tile for _, group in groups for tile in group]
    lines = [tile.text.split("\n") for tile in tiles if tile.text]
    # Light ink on black becomes black ink on white.
    invert = bool(np.median([np.median(tile.pixels) for tile in tiles if tile.pixels.ndim == 2] or 255) < 128)
    width = max([SIDE + 18, *(8 + round(font.getlength(line)) for line in itertools.chain(*lines))])
    height = SIDE + 20 + 16 * max(map(len, lines), default=0)
    strips = [_heading(title, bold)]
    for heading, group in groups:
        strips += [_heading(heading, font)] if heading else []
        strips += [_row(group[start : start + 10], width, height, font, invert) for start in range(0, len(group), 10)]
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    for strip, bottom in zip(strips, itertools.accumulate(strip.height for strip in strips), strict=True):
        sheet.paste(strip, (0, bottom - strip.height))
    return sheet


def _heading(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    strip = Image.new("RGB", (20 + round(font.getlength(text)), 33), "white")
    ImageDraw.Draw(strip).text((10, 10), text, "black", font)
    return strip


def _row(tiles: Sequence[Tile], width: int, height: int, font: ImageFont.FreeTypeFont, invert: bool) -> Image.Image:
    strip = Image.new("RGB", (width * len(tiles), height), "white")
    for index, (pixels, text, color) in enumerate(tiles):
        image = Image.fromarray(255 - pixels if pixels.ndim == 2 and invert else pixels)
        left, top = width * index + (width - SIDE) // 2, height - SIDE - 12
        strip.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
        ImageDraw.Draw(strip).text((left + SIDE / 2, top - 4), text, color, font, "md", align="center")
    return strip


def contact_sheet(
    images: Sequence[Pixels],
    predictions: Sequence[str],
    confidences: Sequence[float],
    paths: Sequence[str] = (),
    lines: Sequence[int] = (),
    limit: float = UNSURE,
) -> Image.Image:
    """Draws the first hundred images with prediction, confidence and file; if lines are given, in a row for each."""
    texts = [f"{name}  {confidence:.0%}" for name, confidence in zip(predictions, confidences, strict=True)]
    if paths and not lines:
        texts = [f"{text}\n{Path(path).name[-14:]}" for text, path in zip(texts, paths, strict=True)]
    colors = ["black" if confidence >= limit else "firebrick" for confidence in confidences]
    tiles = [Tile(*tile) for tile in zip(images, texts, colors, strict=True)][:100]
    title = f"{len(tiles)} of {len(images):,} images, as the model sees them: prediction and confidence"
    title += f", in red below {limit:.0%}"
    rows = itertools.groupby(zip(paths, lines, tiles, strict=False), key=lambda item: item[:2])
    groups = [("" if line else path, [tile for *_, tile in row]) for (path, line), row in rows]
    return draw(title, groups or [("", tiles)])


def batch_sheet(images: Pixels, labels: Sequence[str]) -> Image.Image:
    """Draws fifty images of a batch, `(N, H, W)` or `(N, H, W, 3)`, with their labels; the last ones may have none."""
    tiles = [Tile(image, name) for image, name in zip(images, [*labels, *["no label"] * len(images)], strict=False)]
    shown = tiles[:: -(-len(tiles) // 50)]
    return draw(f"{len(shown)} of the {len(tiles)} images of the first batch, as training sees them", [("", shown)])


def mistakes_sheet(results: Results) -> Image.Image:
    """Draws the fifty most confident mistakes, and says which labels may be wrong."""
    tiles, mistakes = [], results.mistakes
    for index in mistakes[:50]:
        probabilities, is_suspected = results.probabilities[index], index in results.suspected
        text = f"{results.describe(index)}\n{probabilities[results.labels[index]]:.1%} / {probabilities.max():.1%}"
        text += "\nwrong label?" * is_suspected
        tiles.append(Tile(results.images[index].numpy(), text, "firebrick" if is_suspected else "black"))
    title = f"{len(mistakes):,} mistakes in {len(results.labels):,} images, the most confident first"
    return draw(f"{title}: label as prediction, and the probabilities of both", [("", tiles)])
