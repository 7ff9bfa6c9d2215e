"""Your own images: from any image to digits in MNIST's format."""

from mnist_lightning.images.digits import Digit, find_digits, join_lines

__all__ = ["Digit", "find_digits", "join_lines"]
