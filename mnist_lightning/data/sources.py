"""The datasets, from `datasets.yaml`: class names, pixel statistics, and files with their published checksums."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnist_lightning.files import read_yaml

Split = Literal["train", "test"]

BUNDLED_DIR = Path(__file__).parent / "mnist"
SUSPECTED_LABEL_ERRORS = (947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729)
"""Indices of MNIST's test images whose labels may be wrong. Source: Northcutt et al. 2021 (arXiv:2103.14749)."""


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


def _source(row: dict[str, Any]) -> Source:
    files = {split: tuple(File(**file) for file in files) for split, files in row.pop("files").items()}
    return Source(tuple(row.pop("class_names")), files=files, **row)


SOURCES = {name: _source(row) for name, row in read_yaml(Path(__file__).with_name("datasets.yaml")).items()}
