"""The datasets: a table from `datasets.yaml`, their files, verified whenever they are read, and a split in two."""

import contextlib
import gzip
import hashlib
import re
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.errors import UserError, check_range, one_line
from mnist_lightning.files import read_yaml

Split = Literal["train", "test"]

BUNDLED_DIR = Path(__file__).parent / "mnist"
SUSPECTED_LABEL_ERRORS = (947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729)
"""Indices of MNIST's test images whose labels may be wrong. Source: Northcutt et al. 2021 (arXiv:2103.14749)."""
REPEATED = r"^.*HTTPS?Connection\w*\(.*?port=\d+\): |[\"']\)\)$"  # what surrounds the reason in urllib3's errors
TIMEOUT_S = 30  # seconds without a byte after which a mirror is abandoned


@dataclass(frozen=True)
class File:
    """An IDX file, and its published checksums, if any, as `algorithm:hex digest`."""

    name: str  # when decompressed; the compressed file's name ends with `.gz`
    decompressed: str = ""  # checksum of the decompressed content
    compressed: str = ""  # checksum of the compressed file


@dataclass(frozen=True)
class Source:
    """A dataset."""

    class_names: tuple[str, ...]  # in the order of the labels
    mean: float  # of the training pixels, in [0, 1]
    std: float
    folder: str  # below `data_dir`; torchvision uses the same names and files
    files: dict[Split, tuple[File, ...]]  # images and labels of each split
    mirrors: Sequence[str] = ()  # URLs that a compressed file's name is appended to
    archive: Sequence[str] | None = None  # name and checksum of a ZIP file with all of them, in its folder `gzip`
    num_test_images: int | None = None  # the official ones, which come first; None: all
    is_transposed: bool = False  # whether images are stored column by column
    is_bundled: bool = False  # whether the files come with the package
    is_handwriting: bool = False  # whether `predict` finds digits in a picture; else it takes all of it


SOURCES: dict[str, Source] = {}
for name, row in read_yaml(Path(__file__).with_name("datasets.yaml")).items():
    files = {split: tuple(File(**file) for file in pair) for split, pair in row.pop("files").items()}
    SOURCES[name] = Source(tuple(row.pop("class_names")), files=files, **row)


def find_source(dataset: str) -> Source:
    """Returns a dataset's row in `SOURCES`, or raises a UserError."""
    check_range("dataset", dataset, dataset in SOURCES, f"one of {', '.join(SOURCES)} or ImageFolder")
    return SOURCES[dataset]


def load(dataset: str, split: Split, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Reads one split from verified files in torchvision's folders; what is missing or damaged is downloaded.

    Returns images `(N, 28, 28)` and labels `(N,)`, both uint8, or raises a UserError.
    """
    source = find_source(dataset)
    raw_dir = data_dir / source.folder / "raw"
    contents = {file: _read(source, file, raw_dir) for file in source.files[split]}
    if missing := [file for file, content in contents.items() if content is None]:
        download(source, missing, raw_dir)
        contents |= {file: _read(source, file, raw_dir) for file in missing}
    images, labels = (parse_idx(content or b"", raw_dir / file.name) for file, content in contents.items())
    if labels.ndim == 2:  # QMNIST stores eight numbers for each image; the first is the class
        labels = labels[:, 0]
    max_label = int(labels.max()) if len(labels) else 0
    if images.shape[1:] != (28, 28) or not 0 < len(images) == len(labels) or max_label >= len(source.class_names):
        found = f"images of shape {tuple(images.shape)} and {len(labels)} labels up to {max_label}"
        raise UserError(f"{raw_dir}: {found} are not a {split} split of {dataset}; replace the files")
    if source.is_transposed:
        images = images.transpose(1, 2).contiguous()
    end = source.num_test_images if split == "test" else None
    return images[:end], labels[:end].to(torch.uint8)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits images in two, with the same proportion of classes in both parts; the seed alone decides how.

    Returns the indices of the first part, and of the second, which has the given fraction: int64, ascending.
    """
    num_images = len(labels)
    num_chosen = round(num_images * fraction) if 0 < fraction < 1 else 0
    if not 0 < num_chosen < num_images:
        raise UserError(f"validation_fraction {fraction} of {num_images} images leaves a part empty; try 0.1")
    shuffled = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    evenly_spaced = (2 * torch.arange(num_chosen) + 1) * num_images // (2 * num_chosen)
    chosen = torch.zeros(num_images, dtype=torch.bool)
    chosen[by_class[evenly_spaced]] = True
    return chosen.logical_not().nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def _read(source: Source, file: File, raw_dir: Path) -> bytes | None:
    """Returns a file's first valid copy, decompressed, or None."""
    is_unchecked = not (file.decompressed or file.compressed)  # a user's own dataset has no published checksums
    bundled = [BUNDLED_DIR / f"{file.name}.gz"] if source.is_bundled else []
    for path in (*bundled, raw_dir / file.name, raw_dir / f"{file.name}.gz", raw_dir / "gzip.zip"):
        # A copy that can't be read is skipped: the next one, or a download, takes its place.
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile):
            # EMNIST's download holds the files of all its splits.
            place = zipfile.Path(path, f"gzip/{file.name}.gz") if path.name == "gzip.zip" else path
            stored = place.read_bytes()
            content = stored if path.name == file.name else gzip.decompress(stored)
            if is_unchecked or _matches(content, file.decompressed) or _matches(stored, file.compressed):
                return content
    return None


def _matches(content: bytes, checksum: str) -> bool:
    algorithm, _, digest = checksum.partition(":")
    return bool(digest) and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def parse_idx(content: bytes, path: Path) -> Tensor:
    """Parses the IDX format: two zero bytes, a type, the number of dimensions, the dimensions, the numbers.

    Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    try:
        dtype, num_dimensions = {b"\0\0\x08": "u1", b"\0\0\x0c": ">i4"}[content[:3]], content[3]
        shape = np.frombuffer(content, ">u4", num_dimensions, offset=4).tolist()
        numbers = np.frombuffer(content, dtype, offset=4 + 4 * num_dimensions).reshape(shape)
    except (LookupError, ValueError) as error:
        raise UserError(f"{path} is not in IDX format, or incomplete; replace it with a valid copy") from error
    return torch.from_numpy(numbers.astype(numbers.dtype.newbyteorder("=")))


def download(source: Source, files: Sequence[File], raw_dir: Path) -> None:
    """Downloads compressed files from the first mirror with a valid copy, or raises a UserError with all reasons."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_S)
    wanted = [(f"{file.name}.gz", file.compressed or None) for file in files]  # pooch doesn't check None
    for name, checksum in [source.archive] if source.archive else wanted:
        problems = []
        for url in [mirror + name for mirror in source.mirrors]:
            try:
                pooch.retrieve(url, checksum, name, raw_dir, downloader=downloader)
                break
            except OSError as error:  # requests' errors are OSErrors, and some are also ValueErrors
                problems.append(f"{url}: {re.sub(REPEATED, '', one_line(error))}")
            except ValueError:
                problems.append(f"{url}: checksum mismatch")
        else:
            problem = f"no valid copy of {', '.join(file.name for file in files)} in {raw_dir}"
            reasons = "; ".join(problems) or "no mirror is known"
            advice = "put the compressed files there, or name another folder with --data.data_dir"
            raise UserError(f"{problem}, and the download failed ({reasons}); {advice}")
