"""The datasets: class names, pixel statistics, and the files with their published checksums. Add a dataset here."""

import csv
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mnist_lightning.errors import UserError

Split = Literal["train", "test"]

BUNDLED_DIR = Path(__file__).parent / "mnist"
CHECKSUMS = Path(__file__).parent / "checksums.csv"
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
    torchvision_class: str  # name of its folder, and of the class in `torchvision.datasets` that knows its URLs, if any
    files: dict[Split, tuple[File, ...]]  # images and labels of each split
    num_test_images: int | None = None  # the official ones, which come first; None: all
    is_transposed: bool = False  # whether images are stored column by column
    is_bundled: bool = False  # whether the files come with the package
    is_handwriting: bool = False  # whether `predict` finds digits in a picture; else it takes all of it


def _files(dataset: str) -> dict[Split, tuple[File, ...]]:
    with CHECKSUMS.open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[0] == dataset]  # dataset, split, and the fields of a `File`
    splits: tuple[Split, Split] = ("train", "test")
    return {split: tuple(File(*row[2:]) for row in rows if row[1] == split) for split in splits}


def _emnist(split: str, class_names: str, mean: float, std: float) -> Source:
    files = _files(f"EMNIST{split.capitalize()}")
    return Source(tuple(class_names), mean, std, "EMNIST", files, is_transposed=True, is_handwriting=True)


DIGITS = tuple(string.digits)
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Means and standard deviations are the usual ones of each training set; QMNIST reconstructs MNIST, so MNIST's hold.
SOURCES = {
    "MNIST": Source(DIGITS, 0.1307, 0.3081, "MNIST", _files("MNIST"), is_bundled=True, is_handwriting=True),
    "FashionMNIST": Source(GARMENTS, 0.2860, 0.3530, "FashionMNIST", _files("FashionMNIST")),
    "KMNIST": Source(HIRAGANA, 0.1918, 0.3483, "KMNIST", _files("KMNIST")),
    "QMNIST": Source(DIGITS, 0.1307, 0.3081, "QMNIST", _files("QMNIST"), num_test_images=10_000, is_handwriting=True),
    "EMNISTDigits": _emnist("digits", string.digits, 0.1733, 0.3317),
    "EMNISTBalanced": _emnist("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt", 0.1751, 0.3332),
}


def find_source(dataset: str) -> Source:
    """Returns a dataset's row in `SOURCES`, or raises a UserError."""
    if dataset not in SOURCES:
        raise UserError(f"unknown dataset {dataset!r}; choose one of {', '.join(SOURCES)} or ImageFolder")
    return SOURCES[dataset]
