"""Repeatable chance: generators with several seeds, and a split that keeps the proportions of the classes."""

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.errors import UserError


def make_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator that is seeded by all keys."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits images in two, with the same proportion of classes in both parts; the seed alone decides how.

    Returns the indices of the first part, and of the second, which has the given fraction: int64, ascending.
    """
    num_images = len(labels)
    num_chosen = round(num_images * fraction) if 0 < fraction < 1 else 0
    if not 0 < num_chosen < num_images:
        raise UserError(f"validation_fraction {fraction} of {num_images} images leaves a part empty; try 0.1")
    shuffled = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    evenly_spaced = (2 * torch.arange(num_chosen) + 1) * num_images // (2 * num_chosen)
    chosen = torch.zeros(num_images, dtype=torch.bool)
    chosen[by_class[evenly_spaced]] = True
    return chosen.logical_not().nonzero().squeeze(1), chosen.nonzero().squeeze(1)
