"""What a network has learned: its first layer, where it looks, and its features."""

import math
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from mnist_lightning.data.module import scale
from mnist_lightning.models import Classifier
from mnist_lightning.reporting import sheets
from mnist_lightning.reporting.sheets import Results, Tile

NUM_PATCHES = 7  # in each direction; one after the other is covered


def draw(model: Classifier, results: Results) -> dict[str, Image.Image]:
    """Draws the weights of the first layer, if they form squares, and where the network looks in its worst mistakes."""
    weights = next(parameter for parameter in model.network.parameters() if parameter.ndim > 1).detach().cpu()
    channels, size = model.inputs.channels, math.isqrt(weights[0].numel() // model.inputs.channels)
    drawn = {"occlusion": _occlusion_sheet(model, results)}
    if weights[0].numel() == channels * size**2:
        maps = weights.view(-1, channels, size, size).mean(1)[:50].numpy()
        tiles = [Tile(_in_color(kernel, abs(maps).max())) for kernel in maps]
        title = f"First layer, {len(maps)} of {len(weights)} units, {size}x{size}: positive weights red, negative blue"
        drawn["first_layer"] = sheets.draw(title, [("", tiles)])
    return drawn


def _occlusion_sheet(model: Classifier, results: Results) -> Image.Image:
    tiles = []
    for index in results.mistakes[:10]:
        pixels = results.images[index]
        drops = occlusion(model, pixels, int(results.predictions[index]))
        ink = pixels.numpy() / 255 if pixels.ndim == 2 else 1 - pixels.numpy().mean(2) / 255
        colors = _in_color(drops, max(0.1, abs(drops).max())) * (1 - 0.8 * ink[..., None])
        tiles.append(Tile(colors.astype(np.uint8), f"{results.describe(index)}\nup to {drops.max():+.0%}"))
    title = "The most confident mistakes: places that raise (red) or lower (blue) the probability of the prediction"
    return sheets.draw(title, [("", tiles)])


def occlusion(model: Classifier, image: Tensor, prediction: int) -> npt.NDArray[np.float32]:
    """Returns how much the patch around each pixel adds to the probability of a class, `(H, W)` in [-1, 1].

    That is what the probability loses if the patch is covered. Source: Zeiler and Fergus 2014 (arXiv:1311.2901).
    """
    places = torch.arange(len(image)) * NUM_PATCHES // len(image)
    patches = places[:, None] * NUM_PATCHES + places  # (H, W), the number of each pixel's patch
    is_covered = patches == torch.arange(NUM_PATCHES**2).view(-1, 1, 1)  # (49, H, W)
    covered = torch.where(is_covered if image.ndim == 2 else is_covered[..., None], image.amin(), image)  # by paper
    probabilities = model.predict(torch.cat([image[None], covered])).probabilities[:, prediction]
    return np.asarray((probabilities[0] - probabilities[1:])[patches])


def features(model: Classifier, images: Tensor) -> Tensor | None:
    """Returns what the last fully connected layer receives, `(N, F)` float32, or None if there is no such layer."""
    found: list[Tensor] = []
    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]:
        with layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].flatten(1).float().cpu())):
            model.predict(images)
    return torch.cat(found)[: len(images)] if found else None  # an Ensemble with shifts has several for each image


def log_features(writer: SummaryWriter, model: Classifier, results: Results) -> None:
    """Writes the features of up to a thousand images for TensorBoard's projector."""
    images = results.images[: min(1000, (2048 // model.inputs.image_size) ** 2)]  # the projector shows small ones
    labels = [results.class_names[label] for label in results.labels[: len(images)]]
    shutil.rmtree(Path(writer.log_dir) / "00000", ignore_errors=True)  # of an earlier test
    if (vectors := features(model, images)) is not None:
        writer.add_embedding(vectors, labels, scale(images), tag="features")


def _in_color(values: Any, limit: float) -> Any:
    """Returns colors `(H, W, 3)` uint8 for values `(H, W)`: red for `limit`, white for 0, blue for `-limit`."""
    return mpl.colormaps["RdBu_r"]((values / limit + 1) / 2, bytes=True)[..., :3]
