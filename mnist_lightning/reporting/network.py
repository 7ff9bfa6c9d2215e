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
    drawn, channels = {"occlusion": _occlusion_sheet(model, results)}, model.inputs.channels
    for layer in [module for module in model.network.modules() if isinstance(module, nn.Conv2d | nn.Linear)][:1]:
        weights = getattr(layer, "kernels", layer.weight).detach().float().cpu()
        size = math.isqrt(weights[0].numel() // channels)
        if weights[0].numel() == channels * size**2:
            maps = weights.view(-1, channels, size, size).mean(1)[:50].numpy()
            tiles = [Tile(_in_color(kernel, abs(maps).max())) for kernel in maps]
            title = f"First layer: {len(maps)} of {len(weights)} outputs, each with {size} x {size} weights"
            drawn["first_layer"] = sheets.draw(f"{title}; positive ones are red, negative ones blue", [("", tiles)])
    return drawn


def _occlusion_sheet(model: Classifier, results: Results) -> Image.Image:
    tiles = []
    for index in results.mistakes[:10]:
        pixels = results.images[index]
        drops = occlusion(model, pixels, int(results.probabilities[index].argmax()))
        ink = (pixels.float() - _background(pixels)).abs().view(*pixels.shape[:2], -1).mean(2, keepdim=True).numpy()
        colors = _in_color(drops, max(0.1, abs(drops).max())) * (1 - 0.6 * ink / 255)
        tiles.append(Tile(colors.astype(np.uint8), f"{results.describe(index)}\n{100 * drops.max():.0f} points"))
    title = "The most confident mistakes. Red places support the prediction: covering them lowers its probability"
    return sheets.draw(f"{title}, at most by these percentage points", [("", tiles)])


def _background(image: Tensor) -> Tensor:
    return image.flatten(0, 1).median(0).values  # of each channel


def occlusion(model: Classifier, image: Tensor, prediction: int) -> npt.NDArray[np.float32]:
    """Returns what covering each pixel's patch takes from a class's probability, `(H, W)`. Source: arXiv:1311.2901."""
    places = torch.arange(len(image)) * NUM_PATCHES // len(image)
    patches = places[:, None] * NUM_PATCHES + places  # (H, W), the number of each pixel's patch
    is_covered = patches == torch.arange(NUM_PATCHES**2).view(-1, 1, 1)  # (49, H, W)
    covered = torch.where(is_covered if image.ndim == 2 else is_covered[..., None], _background(image), image)
    probabilities = model.predict(torch.cat([image[None], covered])).probabilities[:, prediction]
    return np.asarray((probabilities[0] - probabilities[1:])[patches])


def features(model: Classifier, images: Tensor) -> Tensor | None:
    """Returns the inputs of the last fully connected layer, `(N, F)` float32; None for networks without one."""
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
