"""Your own images: from any image to what a model takes, such as digits in MNIST's format."""

from mnist_lightning.images.digits import Digit, InputFormat, find_digits, join_lines

__all__ = ["Digit", "InputFormat", "find_digits", "join_lines"]
