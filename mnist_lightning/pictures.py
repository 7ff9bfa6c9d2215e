"""Pictures of the user's own, in the place of the dataset's test images."""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mnist_lightning import figures, images, reports
from mnist_lightning.console import console
from mnist_lightning.images import Digit


@dataclass(frozen=True)
class Pictures:
    """Files and the digits in them.

    Attributes:
        paths: The files.
        digits: Each digit with its file, in order.
        num_unread: How many files can't be read.
    """

    paths: list[Path]
    digits: list[tuple[Path, Digit]]
    num_unread: int

    @classmethod
    def read(cls, places: Sequence[str], many: bool, is_told: bool) -> Self:
        """Finds the digits in pictures, several pictures at a time.

        Args:
            places: Files, folders, patterns.
            many: Whether a picture holds lines of digits.
            is_told: Whether to show progress, and say what can't be read.

        Raises:
            FileNotFoundError: A place leads to no file.
        """

        def look(path: Path) -> list[Digit] | Exception:
            try:
                return images.find_digits(path, many)
            except (ValueError, OSError) as error:
                return error

        paths = images.find_files(places)
        found: list[tuple[Path, Digit]] = []
        num_unread = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the work is numpy's, which lets other threads run
            progress = track(paths, "reading", console=console, transient=True, disable=not is_told)
            for path, digits in zip(progress, pool.map(look, paths), strict=True):
                if isinstance(digits, Exception):
                    num_unread += 1
                    if is_told:
                        print(f"not read: {digits}", file=sys.stderr)
                else:
                    found += [(path, digit) for digit in digits]
        return cls(paths, found, num_unread)

    def as_images(self) -> Tensor:
        """Returns the digits, `(N, 28, 28)` uint8."""
        return torch.from_numpy(np.stack([digit.image for _, digit in self.digits]))

    def places(self) -> dict[str, list[int]]:
        """Returns where each digit is in its picture, in pixels."""
        names = ("left", "top", "width", "height")
        return {name: [getattr(digit, name) for _, digit in self.digits] for name in names}

    def check_targets(self, targets: Sequence[Path]) -> None:
        """Raises a ValueError if a file to write is one of the pictures."""
        taken = {path.resolve() for path in self.paths}
        for target in targets:
            if target.resolve() in taken:
                raise ValueError(f"{target} is one of the --images and would be written over; give another --output")

    def write_sheet(self, path: Path, texts: Sequence[str], confidences: Sequence[float]) -> None:
        """Writes what the model saw of each digit, with what it read and how sure it was."""
        reports.write_figure(path, figures.contact_sheet([digit.image for _, digit in self.digits], texts, confidences))

    def lines(self, texts: Sequence[str]) -> Iterator[str]:
        """Yields each picture with what was read in it, line by line."""
        for path, group in itertools.groupby(range(len(texts)), key=lambda number: self.digits[number][0]):
            lines = images.join_lines([(self.digits[number][1], texts[number]) for number in group])
            yield f"{path}: {' / '.join(lines)}"
