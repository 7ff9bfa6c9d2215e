"""The layers of the MLP."""

from typing import Any

import pytest
import torch
from torch import nn

from mnist_lightning.errors import UserError
from mnist_lightning.models import MLP


@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers_match_the_arguments(batch_norm: bool) -> None:
    model = MLP(hidden_sizes=(16, 8), dropout=0.3, batch_norm=batch_norm, class_names=tuple("abc"))
    assert isinstance(model.network, nn.Sequential)
    hidden = [nn.Linear, *[nn.BatchNorm1d] * batch_norm, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in model.network] == [nn.Flatten, *hidden, *hidden, nn.Linear]
    assert [layer.out_features for layer in model.network if isinstance(layer, nn.Linear)] == [16, 8, 3]
    assert all(layer.p == 0.3 for layer in model.network if isinstance(layer, nn.Dropout))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 3)


def test_mlp_without_hidden_layers_is_a_linear_classifier() -> None:
    assert [tuple(parameter.shape) for parameter in MLP(hidden_sizes=()).parameters()] == [(10, 784), (10,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sizes": (16, 0)}, "hidden_sizes [16, 0] is not allowed; it must be 1 or more each"),
        ({"dropout": -0.1}, "dropout -0.1 is not allowed; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_arguments_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MLP(**options)
    assert str(error.value) == message
