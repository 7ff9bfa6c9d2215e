"""Reading the user's images: files, folders and patterns; PNG, JPEG, WebP, BMP, TIFF and GIF. No torch here."""

import glob
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_lightning.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000

Gray = npt.NDArray[np.float32]  # brightness or ink, `(height, width)` float32 in [0, 1]
ImageSource = str | Path | bytes | Image.Image  # a file, its content, or an image that Pillow has opened

warnings.filterwarnings("error", category=Image.DecompressionBombWarning)  # filters are global, not per thread


class ImageError(UserError):
    """An image can't be used; `status` is the service's answer: 413 if it is too large, 415 in an unknown format."""

    def __init__(self, source: ImageSource, problem: str, status: int = 422) -> None:
        super().__init__(f"{source if isinstance(source, str | Path) else 'the image'} {problem}")
        self.status = status


def find_files(paths: Sequence[str]) -> list[Path]:
    """Returns files, matches of patterns, and images and files without suffix below folders, or raises a UserError."""
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        files: list[Path] = []
        for match in [path] if path.exists() else sorted(map(Path, glob.glob(text, recursive=True))):  # noqa: PTH207 - patterns may be absolute
            inside = (file for file in match.rglob("*") if is_picture(file) or not file.suffix)
            files += sorted(inside) if match.is_dir() else [match]
        files = [file for file in files if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise UserError(f"--images {text} matches no file; use files, folders or a quoted pattern")
        found |= dict.fromkeys(files)
    return list(found)


def is_picture(path: Path) -> bool:
    """Returns whether a file has the suffix of an image, and isn't hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Gray:
    """Returns the brightness of an image, upright, with transparency as white; raises what `open_image` raises."""
    return np.asarray(open_image(source, max_pixels).convert("L"), np.float32) / np.float32(255)


def read_picture(source: ImageSource, size: int, channels: int, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Returns the central square of an image, resized: `(size, size)` uint8, or `(size, size, 3)` with 3 channels."""
    image = open_image(source, max_pixels).convert("RGB" if channels == 3 else "L")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image, upright, with transparency shown as white, or raises an ImageError or OSError."""
    if isinstance(source, Image.Image):
        return _flatten(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    if (num_bytes := file.stat().st_size if isinstance(file, Path) else len(source)) > MAX_BYTES:  # type: ignore[arg-type]
        raise ImageError(source, f"has {num_bytes:,} bytes; the limit is {MAX_BYTES:,}", 413)
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width:,} x {image.height:,}"
                raise ImageError(source, f"has {size} pixels; the limit is {max_pixels:,}", 413)
            if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                raise ImageError(source, "is animated; use a still image")
            return _flatten(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(source, f"has far more pixels than the limit of {max_pixels:,}", 413) from error
    except UnidentifiedImageError as error:
        raise ImageError(source, f"is not in a supported format; use {', '.join(FORMATS)}", 415) from error
    except (ImageError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # decoders raise all kinds of errors on damaged files
        raise ImageError(source, f"is damaged ({error})") from error


def _flatten(image: Image.Image) -> Image.Image:
    """Returns an image upright, with 8 bits for a color, on white paper where it is transparent."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(upright, np.float32), posinf=0, neginf=0)
        upright = Image.fromarray((values / (257 if values.max() > 255 else 1)).clip(0, 255).round().astype(np.uint8))
    is_opaque = upright.mode == "RGBA" and upright.getchannel("A").getextrema() == (255, 255)  # as drawings of the page
    if is_opaque or not upright.has_transparency_data:
        return upright
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
