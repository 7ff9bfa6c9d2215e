"""Verified dataset files: bundled, already on the disk or downloaded, each checked every time it is read."""

import contextlib
import gzip
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.data import downloads, sources
from mnist_lightning.data.sources import File, Source, Split
from mnist_lightning.errors import UserError

IDX_DTYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}


def load(dataset: str, split: Split, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Reads one split from verified files in torchvision's folders; what is missing or damaged is downloaded.

    Returns:
        Images `(N, 28, 28)` uint8 and labels `(N,)` uint8.

    Raises:
        UserError: The dataset is unknown, a file has no valid copy, or the files don't belong together.
    """
    source = sources.find_source(dataset)
    raw_dir = data_dir / source.folder / "raw"
    files = source.files[split]
    contents = [_read(source, file, raw_dir) for file in files]
    if missing := [file for file, content in zip(files, contents, strict=True) if content is None]:
        downloads.download(source, missing, raw_dir)
        contents = [_read(source, file, raw_dir) for file in files]
    images, labels = (parse_idx(c or b"", raw_dir / file.name) for file, c in zip(files, contents, strict=True))
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


def _read(source: Source, file: File, raw_dir: Path) -> bytes | None:
    """Returns a file's first valid copy, decompressed, or None."""
    is_unchecked = not (file.decompressed or file.compressed)  # a user's own dataset has no published checksums
    for compressed, content in _copies(source, file, raw_dir):
        if is_unchecked or _matches(content, file.decompressed) or _matches(compressed, file.compressed):
            return content
    return None


def _copies(source: Source, file: File, raw_dir: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields each readable copy, compressed if it is stored so, and decompressed."""
    bundled = [sources.BUNDLED_DIR / f"{file.name}.gz"] if source.is_bundled else []
    for path in (*bundled, raw_dir / file.name, raw_dir / f"{file.name}.gz", raw_dir / "gzip.zip"):
        # A copy that can't be read is skipped: the next one, or a download, takes its place.
        with contextlib.suppress(OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile):
            if path.suffix not in (".gz", ".zip"):
                yield b"", path.read_bytes()
                continue
            if path.name == "gzip.zip":  # EMNIST's download holds the files of all its splits
                with zipfile.ZipFile(path) as archive:
                    compressed = archive.read(f"gzip/{file.name}.gz")
            else:
                compressed = path.read_bytes()
            yield compressed, gzip.decompress(compressed)


def _matches(content: bytes, checksum: str) -> bool:
    algorithm, _, digest = checksum.partition(":")
    return bool(digest) and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def parse_idx(content: bytes, path: Path) -> Tensor:
    """Parses the IDX format: two zero bytes, a type, the number of dimensions, the dimensions, the numbers.

    Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    head = content[:4]
    if len(head) == 4 and head[:2] == b"\0\0" and head[2] in IDX_DTYPES and len(content) >= 4 + 4 * head[3]:
        dtype, shape = IDX_DTYPES[head[2]], np.frombuffer(content, ">u4", count=head[3], offset=4).tolist()
        if len(content) == 4 + 4 * len(shape) + math.prod(shape) * dtype.itemsize:
            numbers = np.frombuffer(content, dtype, offset=4 + 4 * len(shape)).reshape(shape)
            return torch.from_numpy(numbers.astype(dtype.newbyteorder("=")))
    raise UserError(f"{path} is not in IDX format, or incomplete; replace it with a valid copy")
