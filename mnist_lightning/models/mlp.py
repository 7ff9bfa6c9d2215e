"""A multilayer perceptron."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

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
            layers += [nn.Linear(in_features, out_features)]
            layers += [nn.BatchNorm1d(out_features)] if batch_norm else []
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], len(self.class_names)))
