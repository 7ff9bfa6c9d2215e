"""Your own images: from any image to what a model takes, such as digits in MNIST's format."""

from mnist_lightning.images.digits import Digit, InputFormat, find_digits
from mnist_lightning.images.lines import MIN_KNOWN, choose, join_lines

__all__ = ["MIN_KNOWN", "Digit", "InputFormat", "choose", "find_digits", "join_lines"]
