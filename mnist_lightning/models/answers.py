"""A model's answers about your own images, without a trainer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mnist_lightning.data.module import EVALUATION_BATCH_SIZE
from mnist_lightning.errors import UserError
from mnist_lightning.images import InputFormat


class Answers(NamedTuple):
    """What a model says about N images, each of one of C classes."""

    classes: list[str]
    confidences: npt.NDArray[np.float32]  # (N,), the largest probability of each image
    probabilities: npt.NDArray[np.float32]  # (N, C)


def answer(
    images: Any, classify: Callable[[Tensor], Tensor], inputs: InputFormat, class_names: Sequence[str]
) -> Answers:
    """Classifies images.

    Args:
        images: A picture, as a path, the content of a file or a Pillow image; a list of pictures; or an array or tensor
            `(N, 28, 28)` uint8, or whatever `inputs.shape` is for one image.
        classify: Returns probabilities `(N, C)` for a tensor like that.
        inputs: The images that it takes.
        class_names: In the order of the probabilities.

    Raises:
        UserError: A picture can't be used, or the array has another shape or type.
        OSError: A picture can't be read.
    """
    if not isinstance(images, np.ndarray | Tensor):
        pictures = images if isinstance(images, list | tuple) else [images]
        images = np.stack([inputs.read(picture)[0].image for picture in pictures])
    pixels = torch.as_tensor(images)
    if pixels.shape[1:] != inputs.shape or pixels.dtype != torch.uint8 or len(pixels) == 0:
        expected = ", ".join(["N", *map(str, inputs.shape)])
        raise UserError(f"images of shape {tuple(pixels.shape)} and {pixels.dtype} given; use ({expected}) and uint8")
    with torch.inference_mode():
        parts = [classify(part).cpu() for part in pixels.split(EVALUATION_BATCH_SIZE)]  # type: ignore[no-untyped-call]
    probabilities = torch.cat(parts).numpy()
    return Answers([class_names[i] for i in probabilities.argmax(1)], probabilities.max(1), probabilities)
