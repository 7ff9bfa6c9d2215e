"""From any picture to digits as NIST made them: bright ink, 20 pixels long, centred by mass in 28x28. No torch here."""

import glob
import io
import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000
WORKING_SIZES = {"one": 700, "many": 2000}
"""Pixels of the longer side that one digit or many are looked for in; larger pictures are reduced to it."""
LEAST_SIZE = 64
"""Smaller pictures are enlarged to it, so that a stroke is several pixels wide."""
MAX_PARTS = 1000
"""Pieces of ink among which digits are looked for; each is compared with the others."""
MIN_CONTRAST = 0.06
"""Least difference between ink and paper, of the range from black to white."""

Grey = npt.NDArray[np.float32]
Box = tuple[slice, slice]


class Piece(NamedTuple):
    """Ink that belongs together: rows and columns of its box, and which pixels of that box are meant."""

    box: Box
    mask: npt.NDArray[np.bool_]


warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # here, since filters are not by thread


class PictureError(ValueError):
    """A picture can't be used: it is damaged, or one of the below."""


class BlankPictureError(PictureError):
    """There is no ink in a picture."""


class LargePictureError(PictureError):
    """A picture has more bytes or pixels than are read."""


class UnknownPictureError(PictureError):
    """It is no picture, or of another format."""


@dataclass(frozen=True)
class Digit:
    """A digit and where it was found.

    Attributes:
        image: `(28, 28)` uint8, as in MNIST.
        left: Pixels of the picture left of it.
        top: Pixels above it.
        width: Its width in pixels.
        height: Its height.
        line: Which line of digits it is in, from 0 on.
    """

    image: npt.NDArray[np.uint8]
    left: int
    top: int
    width: int
    height: int
    line: int = 0


def find_files(places: Sequence[str]) -> list[Path]:
    """Returns files, the pictures in folders and below, and the files that match patterns such as `scans/*.png`.

    In folders, names of other kinds of files are left out, such as `notes.txt`; of others the content decides. Links to
    folders are not followed, so that none can lead in a circle.

    Raises:
        FileNotFoundError: A place leads to no file.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        paths = [path] if path.exists() else sorted(map(Path, glob.glob(place, recursive=True)))  # noqa: PTH207 - patterns may be absolute
        files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
        files = [file for file in files if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise FileNotFoundError(f"--images {place} leads to no file; give files, folders or a pattern in quotes")
        found |= dict.fromkeys(files)
    return list(found)


def _inside(folder: Path) -> list[Path]:
    kinds = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS} | {""}
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in kinds)


def find_digits(source: Path | bytes, many: bool = False, max_pixels: int = MAX_PIXELS) -> list[Digit]:
    """Returns the digits in a picture, in reading order.

    Args:
        source: A PNG, JPEG, WebP, BMP, TIFF or GIF file, or what is in it; the content decides, not the name.
        many: Whether to look for lines of separate digits; else all ink belongs to one.
        max_pixels: Larger pictures are refused.

    Raises:
        BlankPictureError: There is no ink.
        LargePictureError: The picture is larger than the limits.
        UnknownPictureError: It is none of these.
        PictureError: It is damaged, or moves.
        OSError: The file can't be read.
    """
    picture = read_picture(source, max_pixels)
    if is_mnist(picture):
        return [Digit((picture * 255).round().astype(np.uint8), 0, 0, 28, 28)]
    longer = max(picture.shape)
    factor = longer / min(max(longer, LEAST_SIZE), WORKING_SIZES["many" if many else "one"])
    try:
        ink = find_ink(_resize(picture, factor))
        lines = _split(ink) if many else [[_whole(ink)]]
    except BlankPictureError as error:
        raise BlankPictureError(f"{_name(source)} is blank: {error}") from error
    digits = []
    for number, pieces in enumerate(lines):
        for (rows, columns), mask in pieces:
            image = to_mnist(np.where(mask, ink[rows, columns], 0))
            edges = (columns.start, rows.start, columns.stop, rows.stop)
            left, top, right, bottom = (round(edge * factor) for edge in edges)
            digits.append(Digit(image, left, top, right - left, bottom - top, number))
    return digits


def join_lines(digits: Sequence[tuple[Digit, str]]) -> list[str]:
    """Returns the text of each line, given a picture's digits in reading order with what each was read as."""
    lines = itertools.groupby(digits, key=lambda item: item[0].line)
    return ["".join(text for _, text in line) for _, line in lines]


def read_picture(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Grey:
    """Returns a picture's brightness `(height, width)` float32 in [0, 1], upright and on white paper."""
    name = _name(source)
    if (num_bytes := source.stat().st_size if isinstance(source, Path) else len(source)) > MAX_BYTES:
        raise LargePictureError(f"{name} has {num_bytes:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width:,} x {picture.height:,}"
                raise LargePictureError(f"{name} has {size} pixels; at most {max_pixels:,} are read")
            if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) > 1:
                raise PictureError(f"{name} moves; give a still picture")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith(("I", "F")):
                values = np.nan_to_num(np.asarray(upright, dtype=np.float32), posinf=0, neginf=0)
                return (values / (65535 if values.max() > 255 else 255)).clip(0, 1)
            if upright.has_transparency_data:
                paper = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(paper, upright.convert("RGBA"))
            return np.asarray(upright.convert("RGB").convert("L"), dtype=np.float32) / np.float32(255)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LargePictureError(f"{name} has far more pixels than the {max_pixels:,} that are read") from error
    except UnidentifiedImageError as error:
        raise UnknownPictureError(f"{name} is not a picture in {', '.join(FORMATS)}") from error
    except (PictureError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise PictureError(f"{name} is damaged ({error})") from error


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "the picture"


def is_mnist(picture: Grey) -> bool:
    """Tells whether a picture is a digit as in MNIST already: it then stays as it is, byte for byte."""
    if picture.shape != (28, 28) or picture.max() < 0.5 or np.median(picture) > 0:
        return False
    centre = ndimage.center_of_mass(picture)
    return bool(_edges(picture).mean() < 0.06 and all(abs(place - 13.75) < 1.5 for place in centre))


def find_ink(picture: Grey) -> Grey:
    """Returns where the ink is, `(height, width)` float32 in [0, 1], whatever paper, light and polarity.

    Raises:
        BlankPictureError: There is none.
    """
    smooth = ndimage.gaussian_filter(picture, max(0.5, max(picture.shape) / 500))
    paper = _even_paper(picture)
    if paper is not None:
        flat = np.abs(smooth - paper)
    else:
        above = smooth - _paper(smooth)
        # Ink covers less than half of what is seen, so that the longer tail of the differences is ink.
        sides = (_without_shadows(above), _without_shadows(-above))
        flat = max(sides, key=lambda side: float(np.quantile(side, 0.998)))
    flat = _without_lines(_without_lines(flat).T).T
    level = float(np.quantile(flat, 0.998))
    spread = 1.4826 * float(np.median(np.abs(flat))) + 1e-4
    if level < max(MIN_CONTRAST, 5 * spread) and level < 0.25:
        raise BlankPictureError("nothing on it stands out from the paper")
    threshold = max(_otsu(flat), 0.3 * level)
    full = float(np.median(flat[flat > threshold]))
    ink: Grey = np.clip((flat - 0.25 * threshold) / (full - 0.25 * threshold), 0, 1).astype(np.float32)
    return ink


def to_mnist(ink: Grey) -> npt.NDArray[np.uint8]:
    """Returns a digit's ink, cut out tightly, as NIST and MNIST made it: `(28, 28)` uint8.

    Source: Bottou and others, the steps of NIST's images to MNIST's (github.com/facebookresearch/qmnist).
    """
    height, width = ink.shape
    ink = _thicken(ink)
    factor = 20 / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(
        Image.fromarray(ink).resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC)
    )
    small = np.clip(small / small.max(), 0, 1)
    row, column = ndimage.center_of_mass(small)
    top, left = (
        min(max(int(15 - place), 0), 28 - side) for place, side in zip((row, column), small.shape, strict=True)
    )
    image = np.zeros((28, 28), np.uint8)
    image[top : top + small.shape[0], left : left + small.shape[1]] = (small * 255).round()
    return image


def _resize(picture: Grey, factor: float) -> Grey:
    if factor == 1:
        return picture
    size = round(picture.shape[1] / factor) or 1, round(picture.shape[0] / factor) or 1
    method = Image.Resampling.BOX if factor > 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize(size, method)).clip(0, 1)


def _edges(picture: Grey) -> Grey:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _even_paper(picture: Grey) -> float | None:
    """Returns the paper's brightness if it is the same everywhere, as in drawings: black or white, and at the edges."""
    for value in (float(picture.min()), float(picture.max())):
        share, share_of_edges = (np.mean(np.abs(part - value) < 0.03) for part in (picture, _edges(picture)))
        if share > 0.3 and share_of_edges > 0.4:
            return value
    return None


def _paper(picture: Grey) -> Grey:
    """Fits a bent surface to the paper; ink, which departs from it to one side, is left out step by step."""
    # Polynomials of degree 3, on a grid that is fine enough to find the paper between strokes.
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    y, x = (np.linspace(-1, 1, size)[:, None] ** np.arange(4) for size in picture.shape)
    rows, columns = (np.linspace(0, size - 1, min(size, 100)).astype(int) for size in picture.shape)
    values = picture[np.ix_(rows, columns)].ravel()
    terms = np.stack([np.outer(y[rows, i], x[columns, j]).ravel() for i, j in powers], 1)
    is_paper = np.ones(len(values), bool)
    for _ in range(8):
        solution = np.linalg.lstsq(terms[is_paper], values[is_paper], rcond=None)[0]
        away = np.abs(values - terms @ solution)
        is_paper = away <= max(2.5 * 1.4826 * float(np.median(away)), 0.01)
    coefficients = np.zeros((4, 4))
    coefficients[tuple(zip(*powers, strict=True))] = solution
    surface: Grey = (y @ coefficients @ x.T).astype(np.float32)
    return surface


def _without_shadows(ink: Grey) -> Grey:
    """Takes away what is as broad and as high as no stroke is: shadows with sharp edges, the table beside the paper."""
    shadows = ndimage.grey_opening(ink, max(3, round(0.3 * max(ink.shape))))
    flat: Grey = ink - shadows.clip(min=0)
    return flat


def _without_lines(ink: Grey) -> Grey:
    """Takes away thin lines that run from left to right, level or slightly askew: those of ruled and squared paper."""
    height, width = ink.shape
    if min(height, width) < 64:
        return ink
    strips = np.stack([strip.mean(1) for strip in np.array_split(ink, 32, axis=1)])
    places = (np.arange(32) + 0.5) / 32 - 0.5
    common, slope, sharpest = strips[0], 0.0, -1.0
    for candidate in np.linspace(-0.06, 0.06, 25) * width:
        rows = np.arange(height) + (candidate * places).round().astype(int)[:, None]
        shared = np.partition(np.take_along_axis(strips, rows.clip(0, height - 1), 1), 8, axis=0)[8]  # by most strips
        if (sharpness := float(np.square(np.diff(shared)).sum())) > sharpest:
            common, slope, sharpest = shared, candidate, sharpness
    found = common - ndimage.grey_opening(common, max(5, round(0.03 * max(ink.shape))))  # less than a stroke's height
    found = ndimage.maximum_filter1d(np.where((found > 0.02) & (found > 0.7 * common), 1.3 * found, 0), 3)
    rows = np.arange(height)[:, None] - (slope * (np.arange(width) / width - 0.5)).round().astype(int)
    flat: Grey = ink - found[rows.clip(0, height - 1)]
    return flat


def _otsu(values: Grey) -> float:
    """Returns the threshold that divides values best in two. Source: Otsu 1979 (IEEE Trans. SMC 9:62-66)."""
    counts, edges = np.histogram(values[values > 0], 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * middles).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middles[np.nanargmax(between[:-1])])


def _parts(ink: Grey) -> tuple[npt.NDArray[np.int32], list[Box], npt.NDArray[np.int64]]:
    labels, _ = ndimage.label(ink > 0.5, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    return labels, boxes, np.bincount(labels.ravel())[1:]


def _whole(ink: Grey) -> Piece:
    """Returns all ink without specks."""
    labels, boxes, sizes = _parts(ink)
    least = [0.3 if _is_at_edge(box, ink.shape) else 0.04 for box in boxes]  # shadows come in from the edges
    kept = [number for number in range(len(boxes)) if sizes[number] >= max(4, least[number] * sizes.max())]
    if not kept:
        raise BlankPictureError("there are specks on it, and nothing else")
    box = _union(boxes[number] for number in kept)
    mask = ndimage.binary_dilation(np.isin(labels, [number + 1 for number in kept]), iterations=3)
    return Piece(box, mask[box])


def _is_at_edge(box: Box, shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == side for part, side in zip(box, shape, strict=True))


def _union(boxes: Iterable[Box]) -> Box:
    rows, columns = zip(*boxes, strict=True)
    return (
        slice(min(part.start for part in rows), max(part.stop for part in rows)),
        slice(min(part.start for part in columns), max(part.stop for part in columns)),
    )


def _split(ink: Grey) -> list[list[Piece]]:
    """Returns each digit's ink, line by line and from left to right."""
    labels, boxes, sizes = _parts(ink)
    if not 0 < len(boxes) <= MAX_PARTS:
        raise BlankPictureError(f"there are {len(boxes):,} specks on it, and nothing else")
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    height = float(np.median(heights[sizes >= 0.2 * np.quantile(sizes, 0.9)]))
    groups: list[list[int]] = []
    for number in sorted(range(len(boxes)), key=lambda number: -sizes[number]):
        if sizes[number] < max(4, 0.003 * height**2):
            continue  # a speck
        home = next((group for group in groups if _belongs(boxes[number], [boxes[n] for n in group], height)), None)
        if home is None:
            groups.append([number])
        else:
            home.append(number)
    found = []
    for group in groups:
        box = _union(boxes[n] for n in group)
        is_tall = box[0].stop - box[0].start > (0.7 if _is_at_edge(box, ink.shape) else 0.3) * height
        if is_tall:  # not a dot, a dash or a shadow
            mask = ndimage.binary_dilation(np.isin(labels[box], [n + 1 for n in group]), iterations=2)
            found.append(Piece(box, mask))
    if not found:
        raise BlankPictureError("there are specks on it, and nothing else")
    return _lines(found, height)


def _belongs(box: Box, others: list[Box], height: float) -> bool:
    """Tells whether a piece of ink is part of a digit: a loose stroke above, below or inside of it."""
    rows, columns = _union(others)
    overlap = min(box[1].stop, columns.stop) - max(box[1].start, columns.start)
    gap = max(box[0].start, rows.start) - min(box[0].stop, rows.stop)
    together = max(box[0].stop, rows.stop) - min(box[0].start, rows.start)
    narrower = min(box[1].stop - box[1].start, columns.stop - columns.start)
    return bool(overlap > 0.4 * narrower) and gap < 0.3 * height and together < 1.4 * height


def _lines(found: list[Piece], height: float) -> list[list[Piece]]:
    """Sorts pieces into lines, each from left to right."""

    def middle(piece: Piece) -> float:
        return float(piece.box[0].start + piece.box[0].stop) / 2

    lines: list[list[Piece]] = []
    for piece in sorted(found, key=middle):
        if lines and middle(piece) - np.mean([middle(other) for other in lines[-1]]) < 0.6 * height:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return [sorted(line, key=lambda piece: piece.box[1].start) for line in lines]


def _thicken(ink: Grey) -> Grey:
    """Widens strokes that are thinner than MNIST's thinnest, about a twelfth of the digit."""
    mask = ink > 0.5
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ridge = depth[(depth == ndimage.maximum_filter(depth, 3)) & mask]
    stroke = 2 * float(np.median(ridge)) if len(ridge) else 1
    missing = max(ink.shape) / 12 - stroke
    if missing < 1:
        return ink
    thick: Grey = ndimage.grey_dilation(ink, size=(round(missing) + 1,) * 2)
    return thick
