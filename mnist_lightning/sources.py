"""Verified dataset files: the bundled ones, the user's own or a download, each checked before it is used."""

import contextlib
import csv
import gzip
import io
import itertools
import math
import string
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mnist_lightning import downloads
from mnist_lightning.files import write_atomically

UNPACKED_LEAST = 1 << 26
"""Bytes that any file may unpack to."""
LARGEST_RATIO = 100
"""How much smaller than that images may be packed; MNIST's are five times, emptiness a thousand times."""
Split = Literal["train", "test"]
Content = bytes | memoryview
"""A file's content: in memory, or mapped so that only what is used takes memory, and once for all processes."""

PACKAGE_DIR = Path(__file__).parent
BUNDLED_DIR = PACKAGE_DIR / "mnist"
DISPUTED = (947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729)
"""MNIST's test images whose labels are disputed. Source: Northcutt et al. 2021 (arXiv:2103.14749)."""


@dataclass(frozen=True)
class File:
    """An IDX file and its published checksums, each `algorithm:hex digest` or empty."""

    name: str
    unpacked: str = ""
    packed: str = ""


@dataclass(frozen=True)
class Source:
    """A dataset: its classes, the spread of its pixels, and where its files come from.

    Attributes:
        class_names: In the order of the labels.
        mean: Mean of the training pixels, in [0, 1].
        std: Their standard deviation.
        torchvision_class: Name of its folder, and of the class in `torchvision.datasets` with its addresses, if any.
        files: Images and labels of each split.
        num_test_images: How many of the test images, from the first on, are the official ones; `None`: all.
        transposed: Whether images are stored column by column.
        is_bundled: Whether the files come with the package.
    """

    class_names: tuple[str, ...]
    mean: float
    std: float
    torchvision_class: str
    files: dict[Split, tuple[File, ...]]
    num_test_images: int | None = None
    transposed: bool = False
    is_bundled: bool = False


def _files(dataset: str) -> dict[Split, tuple[File, ...]]:
    with (PACKAGE_DIR / "checksums.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == dataset]
    splits: tuple[Split, Split] = ("train", "test")
    return {s: tuple(File(r["file"], r["unpacked"], r["packed"]) for r in rows if r["split"] == s) for s in splits}


def _emnist(split: str, class_names: str, mean: float, std: float) -> Source:
    files = _files(f"EMNIST{split.capitalize()}")
    return Source(tuple(class_names), mean, std, "EMNIST", files, transposed=True)


DIGITS = tuple(string.digits)
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Means and deviations are those in general use for each training set; QMNIST rebuilds MNIST's images, so MNIST's hold.
SOURCES = {
    "MNIST": Source(DIGITS, 0.1307, 0.3081, "MNIST", _files("MNIST"), is_bundled=True),
    "FashionMNIST": Source(GARMENTS, 0.2860, 0.3530, "FashionMNIST", _files("FashionMNIST")),
    "KMNIST": Source(HIRAGANA, 0.1918, 0.3483, "KMNIST", _files("KMNIST")),
    "QMNIST": Source(DIGITS, 0.1307, 0.3081, "QMNIST", _files("QMNIST"), num_test_images=10_000),
    "EMNISTDigits": _emnist("digits", string.digits, 0.1733, 0.3317),
    "EMNISTBalanced": _emnist("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt", 0.1751, 0.3332),
}


def find_source(dataset: str) -> Source:
    """Looks a dataset up.

    Raises:
        ValueError: It is not in `SOURCES`.
    """
    if dataset not in SOURCES:
        raise ValueError(f"dataset {dataset!r} is not known; choose one of {', '.join(SOURCES)}")
    return SOURCES[dataset]


def load(dataset: str, split: Split, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Reads one split from verified files; what is missing or wrong is replaced by a good copy, downloaded if need be.

    Args:
        dataset: A name in `SOURCES`.
        split: `train` or `test`.
        data_dir: Holds torchvision's folders, such as `FashionMNIST/raw`.

    Returns:
        Images `(N, 28, 28)` uint8 and labels `(N,)` uint8.

    Raises:
        ValueError: The dataset is not known, or its files don't belong together.
        OSError: No good copy of a file could be had.
    """
    source = find_source(dataset)
    raw_dir = data_dir / source.torchvision_class / "raw"
    contents = [_read(source, file, raw_dir) for file in source.files[split]]
    if any(content is None for content in contents):
        _download(source, split, raw_dir)
        contents = [_read(source, file, raw_dir) for file in source.files[split]]
    images, labels = (
        _parse_idx(content, raw_dir / file.name)
        for file, content in zip(source.files[split], contents, strict=True)
        if content is not None
    )
    if labels.ndim == 2:  # QMNIST stores eight numbers an image; the first is the class
        labels = labels[:, 0]
    highest = int(labels.max()) if len(labels) else 0
    if images.shape[1:] != (28, 28) or not 0 < len(images) == len(labels) or highest >= len(source.class_names):
        raise ValueError(
            f"{raw_dir}: {tuple(images.shape)} images and {len(labels)} labels up to {highest} don't make a "
            f"{split} split of {dataset}; delete the files to fetch them again"
        )
    if source.transposed:
        images = images.transpose(1, 2).contiguous()
    end = source.num_test_images if split == "test" else None
    return images[:end], labels[:end].to(torch.uint8)


def _read(source: Source, file: File, raw_dir: Path) -> Content | None:
    """Returns the first whole copy of a file, unpacked, and mends a wrong unpacked one on the way."""
    for content, packed in _copies(source, file, raw_dir):
        if _is_whole(file, content, packed):
            if packed is not None and (raw_dir / file.name).exists():
                write_atomically(raw_dir / file.name, bytes(content))
            return content
    return None


def _copies(source: Source, file: File, raw_dir: Path) -> Iterator[tuple[Content, bytes | None]]:
    """Yields each readable copy as unpacked content and, if it was packed, packed content; the nearest first."""
    bundled = [BUNDLED_DIR / f"{file.name}.gz"] if source.is_bundled else []
    for path in (*bundled, raw_dir / file.name, raw_dir / f"{file.name}.gz", raw_dir / "gzip.zip"):
        # A copy that can't be read or unpacked is no copy; the next one or a download takes its place.
        with contextlib.suppress(OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile):
            if path.suffix not in (".gz", ".zip"):
                yield np.memmap(path, np.uint8, mode="c").data, None  # private: what is written to it stays in memory
                continue
            if path.name == "gzip.zip":  # EMNIST's download: the files of all its splits
                with zipfile.ZipFile(path) as archive:  # read by name, so that no path in it leads anywhere
                    packed = archive.read(f"gzip/{file.name}.gz")
            else:
                packed = path.read_bytes()
            yield _unpack(packed), packed


def _unpack(packed: bytes) -> bytes:
    """Unpacks no more than the IDX header in it promises, and no promise that images can't keep."""
    with gzip.open(io.BytesIO(packed)) as stream:
        _, _, size = _parse_header(head := stream.read(4 + 4 * 255))
        if size > UNPACKED_LEAST and size > LARGEST_RATIO * len(packed):
            raise ValueError(f"{size:,} bytes are said to be in {len(packed):,}")
        return head + stream.read(max(0, size + 1 - len(head)))


def _is_whole(file: File, content: Content, packed: bytes | None) -> bool:
    if not (file.unpacked or file.packed):
        return True  # nobody published a checksum of a user's own dataset
    return downloads.matches(content, file.unpacked) or (packed is not None and downloads.matches(packed, file.packed))


def _download(source: Source, split: Split, raw_dir: Path) -> None:
    """Fetches what a split lacks, packed, from where torchvision would."""
    from torchvision import datasets  # takes seconds to import, and most runs download nothing

    missing = [file for file in source.files[split] if _read(source, file, raw_dir) is None]
    names = ", ".join(file.name for file in missing)
    dataset_class = getattr(datasets, source.torchvision_class, None)
    if dataset_class is None:
        raise OSError(f"no good copy of {names} in {raw_dir}; put the files there, packed or unpacked")
    made = [folder for folder in (raw_dir, *raw_dir.parents) if not folder.exists()]
    try:
        for urls, name, checksum in _addresses(dataset_class, missing):
            downloads.fetch(urls, raw_dir / name, checksum)
    except OSError as error:
        _remove_if_empty(made)
        raise OSError(
            f"no good copy of {names} in {raw_dir}, and downloading failed ({' '.join(str(error).split())}); "
            "put the files there, packed or unpacked, or name their folder's parent with --data.data_dir"
        ) from error


def _remove_if_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # something is in it
        for folder in folders:
            folder.rmdir()


def _addresses(dataset_class: Any, files: Sequence[File]) -> Iterator[tuple[list[str], str, str]]:
    """Yields addresses, name and checksum of each download; each family of torchvision's classes keeps them elsewhere.

    torchvision's own download has no limits of time, and gives up when one mirror's file is wrong.
    """
    if hasattr(dataset_class, "url"):  # all in one archive
        yield [dataset_class.url], Path(dataset_class.url).name, f"md5:{dataset_class.md5}"
        return
    for file in files:
        name = f"{file.name}.gz"
        if isinstance(dataset_class.resources, dict):
            pairs = itertools.chain(*dataset_class.resources.values())
            yield [url for url, _ in pairs if url.endswith(f"/{name}")], name, file.packed
        else:
            yield [f"{mirror.rstrip('/')}/{name}" for mirror in dataset_class.mirrors], name, file.packed


def _parse_idx(content: Content, path: Path) -> Tensor:
    """Reads the IDX format: two zero bytes, a type, the number of dimensions, the dimensions, the numbers.

    Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    try:
        dtype, shape, size = _parse_header(bytes(content[: 4 + 4 * 255]))
        if len(content) != size:
            raise ValueError(f"{size:,} bytes are said to be in it, and {len(content):,} are")
    except ValueError as error:
        raise ValueError(
            f"{path} is not in IDX format, or not all of it is there ({error}); replace it by a good copy"
        ) from error
    numbers = np.frombuffer(content, dtype, offset=4 + 4 * len(shape)).reshape(shape)
    return torch.from_numpy(numbers.astype(dtype.newbyteorder("="), copy=not numbers.flags.writeable))


def _parse_header(head: bytes) -> tuple[np.dtype[Any], list[int], int]:
    """Returns the type of the numbers in an IDX file, its shape, and the size of the whole file in bytes."""
    dtypes: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in dtypes or len(head) < 4 + 4 * head[3]:
        raise ValueError(f"it begins with {head[:4].hex(' ')}")
    shape = np.frombuffer(head, ">u4", count=head[3], offset=4).tolist()
    return dtypes[head[2]], shape, 4 + 4 * len(shape) + math.prod(shape) * dtypes[head[2]].itemsize
