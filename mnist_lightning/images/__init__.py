"""Your own images: from any image to what a model takes, such as digits in MNIST's format."""

from mnist_lightning.images.digits import Digit, find_digits, join_lines
from mnist_lightning.images.inputs import InputFormat

__all__ = ["Digit", "InputFormat", "find_digits", "join_lines"]
