"""The layers of the networks."""

from typing import Any

import pytest
import torch
from torch import nn

from mnist_lightning.errors import UserError
from mnist_lightning.models import CNN, MLP
from mnist_lightning.models.networks import EdgeConv2d


@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers_of_the_mlp_match_the_arguments(batch_norm: bool) -> None:
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
def test_wrong_arguments_of_the_mlp_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MLP(**options)
    assert str(error.value) == message


@pytest.mark.parametrize("edges_only", [False, True])
@pytest.mark.parametrize("pool_after", [1, 2, 3])
def test_pooling_of_the_cnn_follows_the_given_convolution(pool_after: int, edges_only: bool) -> None:
    network = CNN(widths=(4, 6, 8), pool_after=pool_after, edges_only=edges_only).network
    assert isinstance(network, torch.nn.Sequential)
    assert isinstance(network[0], EdgeConv2d) == edges_only
    shapes = []
    features = torch.zeros(2, 1, 28, 28)
    for layer in network:
        features = layer(features)
        if isinstance(layer, torch.nn.Conv2d):
            shapes.append(tuple(features.shape[1:]))
    assert shapes == [(width, *((14, 14) if number < pool_after else (7, 7))) for number, width in enumerate((4, 6, 8))]


def test_edges_do_not_depend_on_polarity_and_brightness_of_the_paper() -> None:
    layer = EdgeConv2d(1, 8, kernel_size=5, stride=2, bias=False)
    images = torch.rand(4, 1, 28, 28)
    edges = layer(images)
    torch.testing.assert_close(layer(1 - images), edges)
    torch.testing.assert_close(layer(0.3 + images), edges)
    torch.testing.assert_close(layer(torch.full_like(images, 0.7)), torch.zeros_like(edges))
    assert edges.mean() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (1, 0)}, "widths [1, 0] is not allowed; it must be 1 or more each, such as [16, 32, 64]"),
        ({"widths": ()}, "widths [] is not allowed; it must be 1 or more each, such as [16, 32, 64]"),
        ({"widths": (1, 2), "pool_after": 3}, "pool_after 3 is not allowed; it must be between 1 and 2"),
        ({"dropout": 1.0}, "dropout 1.0 is not allowed; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_arguments_of_the_cnn_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        CNN(**options)
    assert str(error.value) == message
