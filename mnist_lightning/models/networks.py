"""The networks: a multilayer perceptron and a convolutional network."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_lightning.errors import check_range
from mnist_lightning.models.classifier import Classifier


class MLP(Classifier):
    """Fully connected layers with dropout.

    Args:
        hidden_sizes: Units of each hidden layer.
        dropout: Dropout probability of hidden units.
        batch_norm: Whether each hidden layer has BatchNorm.
        learning_rate: Peak of the one-cycle schedule; at 0.01, a sixth of the hidden units would stay inactive forever.
        kwargs: As in `Classifier`.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (512, 256),
        dropout: float = 0.2,
        batch_norm: bool = False,
        learning_rate: float = 0.002,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        check_range("hidden_sizes", list(hidden_sizes), all(n > 0 for n in hidden_sizes), "1 or more each")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        sizes = [math.prod(self.inputs.shape), *hidden_sizes]
        layers: list[nn.Module] = []
        for in_features, out_features in itertools.pairwise(sizes):
            norm = [nn.BatchNorm1d(out_features)] if batch_norm else []
            layers += [nn.Linear(in_features, out_features), *norm, nn.ReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], len(self.class_names)))


class CNN(Classifier):
    """Convolutions with BatchNorm and ReLU; a stride of 2 in the first one and early pooling keep it fast.

    Args:
        widths: Channels of each convolution. The first is 5x5 with stride 2, the others are 3x3.
        pool_after: Number of convolutions before pooling, to a quarter of the image's size; fewer are faster.
        dropout: Dropout probability of the pooled features.
        edges_only: Whether the first convolution detects only edges, of either polarity, without ReLU.
        kwargs: As in `Classifier`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 64),
        pool_after: int = 2,
        dropout: float = 0.0,
        edges_only: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_range("widths", list(widths), len(widths) > 0 and min(widths) > 0, "1 or more each, such as [16, 32, 64]")
        check_range("pool_after", pool_after, 0 < pool_after <= len(widths), f"between 1 and {len(widths)}")
        check_range("dropout", dropout, 0 <= dropout < 1, "at least 0 and less than 1")
        first = _convolution(self.inputs.channels, widths[0], kernel_size=5, stride=2)
        if edges_only:
            first = EdgeConv2d(self.inputs.channels, widths[0], kernel_size=5, stride=2, bias=False), first[1]
        blocks = [first, *itertools.starmap(_convolution, itertools.pairwise(widths))]
        blocks.insert(pool_after, (nn.MaxPool2d(2),))
        layers = [*itertools.chain(*blocks), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
        network = nn.Sequential(*layers, nn.Linear(widths[-1], len(self.class_names)))
        self.network = network.to(memory_format=torch.channels_last)  # about twice as fast on a CPU


def _convolution(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


class EdgeConv2d(nn.Conv2d):
    """A 5x5 convolution with stride 2 that detects only edges, of either polarity.

    Kernels have zero mean, so uniform paper of any brightness gives 0; the absolute value makes dark ink on light paper
    the same as light ink on dark paper, at each pixel.
    """

    @property
    def kernels(self) -> Tensor:
        """The weights as they are applied, `(out_channels, in_channels, 5, 5)`."""
        return self.weight - self.weight.mean((1, 2, 3), keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        """Returns `(N, out_channels, H / 2, W / 2)`, at least 0, for `(N, in_channels, H, W)` float32."""
        padded = F.pad(images, (2, 2, 2, 2), mode="replicate")  # zero padding would create an edge
        return F.conv2d(padded, self.kernels, stride=self.stride).abs()
