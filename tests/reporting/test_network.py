"""What a network has learned is drawn from its weights, its features and its answers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnist_lightning.models import CNN, MLP
from mnist_lightning.reporting import network
from mnist_lightning.reporting.sheets import Results


class TopLeft(MLP):
    """Class 1 is as probable as its upper left quarter is bright."""

    def probabilities(self, images: Tensor) -> Tensor:
        brightness = images[:, :14, :14].float().mean((1, 2)) / 255
        return torch.stack([1 - brightness, brightness], 1)


def test_occlusion_is_what_the_probability_loses() -> None:
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[:8, :8] = 255
    found = network.occlusion(TopLeft(class_names="ab"), image, 1)
    expected = np.zeros((28, 28), np.float32)
    expected[:8, :8] = 16 / 14**2  # each of these patches of 4x4 pixels is white
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(network.occlusion(TopLeft(class_names="ab"), image, 0), -expected, atol=1e-6)


def test_patches_are_covered_with_the_background_of_either_polarity() -> None:
    image = torch.full((28, 28), 255, dtype=torch.uint8)
    image[:8, :8] = 0  # dark ink on paper
    found = network.occlusion(TopLeft(class_names="ab"), image, 1)
    expected = np.zeros((28, 28), np.float32)
    expected[:8, :8] = -16 / 14**2  # covering ink with paper makes the picture brighter
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_color_pictures_of_any_size_are_covered_too() -> None:
    model, image = CNN(class_names="ab", image_size=33, channels=3), torch.randint(0, 256, (33, 33, 3)).byte()
    assert network.occlusion(model, image, 1).shape == (33, 33)
    results = Results(image[None], torch.tensor([0]), torch.tensor([[0.2, 0.8]]), "ab")
    assert network.draw(model, results).keys() == {"occlusion", "first_layer"}


def test_features_are_what_the_last_layer_turns_into_logits() -> None:
    model = MLP(hidden_sizes=(16, 8))
    images = torch.randint(0, 256, (5, 28, 28)).byte()
    found = network.features(model, images)
    assert found is not None
    features = found.clone()  # usable outside of inference mode
    assert features.shape == (5, 8)
    torch.testing.assert_close(model.head(features).softmax(1), model.probabilities(images))
    assert not model.head._forward_pre_hooks


def test_first_layer_is_drawn_as_it_is_applied() -> None:
    model = CNN(widths=(1, 4), edges_only=True)
    with torch.no_grad():
        next(model.network.parameters()).fill_(0.3)[0, 0, 2, 2] = 0.8  # apart from the mean, one weight and 24 others
    results = Results(torch.zeros(1, 28, 28).byte(), torch.tensor([0]), torch.eye(10)[:1], "0123456789")
    sheet = np.asarray(network.draw(model, results)["first_layer"])[33:]
    reds, blues = sheet[..., 0].astype(int), sheet[..., 2].astype(int)
    assert 0 < (reds > blues).sum() < (reds < blues).sum() / 20  # all but one are below the mean


@pytest.mark.parametrize(("model", "size", "units"), [(CNN(widths=(3, 4)), 5, 3), (MLP(hidden_sizes=(60,)), 28, 50)])
def test_first_layer_is_drawn_in_red_and_blue(model: CNN, size: int, units: int) -> None:
    weights = next(model.network.parameters())
    with torch.no_grad():
        weights.copy_(torch.tensor([1.0, -1.0]).repeat(weights.numel() // 2 + 1)[: weights.numel()].view_as(weights))
    results = Results(torch.zeros(1, 28, 28).byte(), torch.tensor([0]), torch.eye(10)[:1], "0123456789")
    sheet = np.asarray(network.draw(model, results)["first_layer"])[33:]
    red, blue = ((sheet == color).all(2).sum() for color in ((103, 0, 31), (5, 48, 97)))
    assert red + blue == units * 84 * 84
    assert 0.9 < red / blue < 1.2


def test_network_without_a_last_layer_has_no_features() -> None:
    model = MLP(hidden_sizes=(16,))
    model.network = nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten())
    images = torch.randint(0, 256, (5, 28, 28)).byte()
    assert network.features(model, images) is None
