"""The datasets: class names, pixel statistics, and the files with their published checksums. Add a dataset here."""

import csv
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    folder: str  # below `data_dir`; torchvision uses the same names and files
    files: dict[Split, tuple[File, ...]]  # images and labels of each split
    mirrors: tuple[str, ...] = ()  # URLs that a compressed file's name is appended to
    archive: tuple[str, str] | None = None  # name and checksum of a ZIP file with all of them, in its folder `gzip`
    num_test_images: int | None = None  # the official ones, which come first; None: all
    is_transposed: bool = False  # whether images are stored column by column
    is_bundled: bool = False  # whether the files come with the package
    is_handwriting: bool = False  # whether `predict` finds digits in a picture; else it takes all of it


def _files(dataset: str) -> dict[Split, tuple[File, ...]]:
    with CHECKSUMS.open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[0] == dataset]  # dataset, split, and the fields of a `File`
    splits: tuple[Split, Split] = ("train", "test")
    return {split: tuple(File(*row[2:]) for row in rows if row[1] == split) for split in splits}


def _source(name: str, class_names: Sequence[str], mean: float, std: float, mirror: str, **options: Any) -> Source:
    options = {"folder": name, "files": _files(name), "mirrors": (mirror,), **options}
    return Source(tuple(class_names), mean, std, **options)


PYTORCH = "https://ossci-datasets.s3.amazonaws.com/mnist/"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CODH = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
GITHUB = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
NIST = "https://biometrics.nist.gov/cs_links/EMNIST/"
EMNIST = {"folder": "EMNIST", "archive": ("gzip.zip", "md5:58c8d27c78d21e728a6bc7b3cc06412e"), "is_transposed": True}
LETTERS = string.digits + string.ascii_uppercase + "abdefghnqrt"
HIRAGANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Means and standard deviations are the usual ones of each training set; QMNIST reconstructs MNIST, so MNIST's hold.
SOURCES = {
    "MNIST": _source("MNIST", string.digits, 0.1307, 0.3081, PYTORCH, is_bundled=True, is_handwriting=True),
    "FashionMNIST": _source("FashionMNIST", GARMENTS, 0.2860, 0.3530, ZALANDO),
    "KMNIST": _source("KMNIST", HIRAGANA, 0.1918, 0.3483, CODH),
    "QMNIST": _source("QMNIST", string.digits, 0.1307, 0.3081, GITHUB, num_test_images=10_000, is_handwriting=True),
    "EMNISTDigits": _source("EMNISTDigits", string.digits, 0.1733, 0.3317, NIST, is_handwriting=True, **EMNIST),
    "EMNISTBalanced": _source("EMNISTBalanced", LETTERS, 0.1751, 0.3332, NIST, is_handwriting=True, **EMNIST),
}


def find_source(dataset: str) -> Source:
    """Returns a dataset's row in `SOURCES`, or raises a UserError."""
    if dataset not in SOURCES:
        raise UserError(f"unknown dataset {dataset!r}; choose one of {', '.join(SOURCES)} or ImageFolder")
    return SOURCES[dataset]
