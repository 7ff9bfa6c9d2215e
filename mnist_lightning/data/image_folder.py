"""Your own pictures, in a folder for each class: decoded once, into memory, or into a file if they don't fit."""

import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.progress import track
from torch import Tensor

from mnist_lightning.console import console, echo
from mnist_lightning.data.sources import Split, stratified_split
from mnist_lightning.errors import UserError
from mnist_lightning.images import InputFormat
from mnist_lightning.images.reading import is_picture, read_picture

NAME = "ImageFolder"


def find_classes(data_dir: Path) -> list[str]:
    """Returns the names of the class folders, in alphabetical order, or raises a UserError."""
    names = sorted(path.name for path in _root(data_dir).glob("[!.]*/"))
    if not 2 <= len(names) <= 256:
        problem = f"--data.data_dir {data_dir}: there are {len(names)} class folders in {_root(data_dir)}"
        raise UserError(f"{problem}; ImageFolder needs 2 to 256, each with the pictures of a class")
    return names


def load(data_dir: Path, split: Split, classes: Sequence[str], inputs: InputFormat, seed: int) -> tuple[Tensor, Tensor]:
    """Reads a split: from the folders `train` and `test`; if there is only one, a tenth of each class is for testing.

    Returns images `(N, H, W)` or, in color, `(N, H, W, 3)`, and labels `(N,)`, all uint8, or raises a UserError.
    """
    has_both_dirs = (data_dir / "train").is_dir() and (data_dir / "test").is_dir()
    place = data_dir / split if has_both_dirs else _root(data_dir)
    samples: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        found = [path for path in sorted((place / name).rglob("*")) if is_picture(path)]
        if not found:
            raise UserError(f"{place / name} has no pictures; put some there, or name other --data.class_names")
        samples += [(path, label) for path in found]
    labels = torch.tensor([label for _, label in samples], dtype=torch.uint8)
    if not has_both_dirs:
        chosen = stratified_split(labels, 0.1, seed)[split == "test"]
        samples, labels = [samples[index] for index in chosen.tolist()], labels[chosen]
    return _decode([path for path, _ in samples], inputs), labels


def measure(images: Tensor) -> tuple[float, float]:
    """Returns mean and standard deviation of the pixels of images `(N, …)` uint8, in [0, 1], to four places."""
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in images.numpy())
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    return round(float(mean), 4), round(math.sqrt(np.average((values - mean) ** 2, weights=counts)), 4)


def _root(data_dir: Path) -> Path:
    return data_dir / "train" if (data_dir / "train").is_dir() else data_dir


def _decode(files: Sequence[Path], inputs: InputFormat) -> Tensor:
    """Reads pictures into memory, or into a temporary file if they would take more than half of what is free."""
    shape = (len(files), *inputs.shape)
    if (num_bytes := math.prod(shape)) < psutil.virtual_memory().available / 2:
        images = np.empty(shape, np.uint8)
    else:
        size, place = f"{num_bytes / 1e9:.1f} GB", tempfile.gettempdir()
        echo(f"pictures    {size} are too much for the memory, and are decoded into a file in {place}")
        with tempfile.TemporaryFile() as file:
            images = np.memmap(file, np.uint8, "w+", shape=shape)

    def read(index: int) -> None:
        images[index] = read_picture(files[index], inputs.image_size, inputs.channels)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the GIL
        list(track(pool.map(read, range(len(files))), "reading", len(files), console=console, transient=True))
    return torch.from_numpy(images)
