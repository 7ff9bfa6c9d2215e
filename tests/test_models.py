"""The classifiers learn, and rebuild themselves from a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from mnist_lightning import checkpoints
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.models import CNN, MLP, Classifier, EdgeConv2d, normalize


def trainer(**options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "enable_checkpointing": False, "num_sanity_val_steps": 0, **options})  # type: ignore[arg-type]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 28, 28), generator=generator, dtype=torch.uint8)
    return normalize(images, 0.1307, 0.3081), torch.arange(30) % 10


def test_normalize_equals_torchvision() -> None:
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.1307], [0.3081])])
    torch.testing.assert_close(normalize(images, 0.1307, 0.3081), reference(images.unsqueeze(1)))


@pytest.mark.parametrize(("model", "num_parameters"), [(MLP(dropout=0.0), 535_818), (CNN(), 61_306)])
def test_overfits_one_batch(model: Classifier, num_parameters: int) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    images, labels = batch()
    optimizer = torch.optim.AdamW(model.parameters(), 0.001)
    for _ in range(60):
        optimizer.zero_grad()
        model.training_step((images, labels), 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.train_scores.reset()
    assert model.training_step((images, labels), 0).item() < 0.1
    assert model.train_scores.compute()["accuracy"] == 1


def test_edges_are_seen_whatever_their_polarity_and_the_brightness_of_the_paper() -> None:
    layer = EdgeConv2d(8)
    images = torch.rand(4, 1, 28, 28)
    edges = layer(images)
    torch.testing.assert_close(layer(1 - images), edges)
    torch.testing.assert_close(layer(0.3 + images), edges)
    torch.testing.assert_close(layer(torch.full_like(images, 0.7)), torch.zeros_like(edges))
    assert edges.mean() > 0.01


def test_labels_are_smoothed_in_training_alone() -> None:
    model = MLP(label_smoothing=0.3, dropout=0.0)
    images, labels = batch()
    logits = model(images)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(model.training_step((images, labels), 0), smoothed)
    model.test_step((images, labels), 0)
    torch.testing.assert_close(model.test_scores.compute()["loss"], F.cross_entropy(logits, labels))


def test_predict_step_returns_probabilities_and_labels() -> None:
    images, labels = batch()
    found = CNN().eval().predict_step((images, labels), 0)
    torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(30))
    assert found["labels"] is labels


def test_only_matrices_decay_and_the_rate_ends_near_zero(tiny: Path) -> None:
    model = CNN(weight_decay=0.5, learning_rate=0.01)
    run = trainer(max_epochs=2)
    run.fit(model, MNISTDataModule("Tiny", str(tiny), batch_size=50))
    decaying, free = run.optimizers[0].param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert all(parameter.ndim == 1 for parameter in free["params"])
    assert len(decaying["params"]) + len(free["params"]) == len(list(model.parameters()))
    assert run.global_step == 2 * 8
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-6


def test_same_seed_same_weights(tiny: Path) -> None:
    def train(seed: int) -> Tensor:
        seed_everything(seed, verbose=False)
        model = MLP(hidden_sizes=(16,))
        trainer(max_epochs=2).fit(model, MNISTDataModule("Tiny", str(tiny)))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first = train(1)
    assert torch.equal(first, train(1))
    assert not torch.equal(first, train(2))


def test_a_checkpoint_alone_rebuilds_the_model(tiny: Path, tmp_path: Path) -> None:
    model = MLP(hidden_sizes=(16, 8), class_names=tuple("abcdefghij"), mean=0.2, std=0.3)
    run = trainer(max_epochs=1)
    run.fit(model, MNISTDataModule("Tiny", str(tiny)))
    run.save_checkpoint(tmp_path / "model.ckpt")

    stored = checkpoints.read(tmp_path / "model.ckpt")
    assert stored.model_class == "mnist_lightning.models.MLP"
    rebuilt = MLP(**stored.model_options)
    rebuilt.load_state_dict(stored.weights)
    assert rebuilt.class_names == tuple("abcdefghij")
    assert (rebuilt.hparams["mean"], rebuilt.hparams["std"]) == (0.2, 0.3)
    images, _ = batch()
    assert torch.equal(rebuilt.eval()(images), model.eval()(images))
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.temperature == model.temperature != 1
    assert torch.equal(loaded.eval()(images), model.eval()(images))


@pytest.mark.parametrize("pool_after", [1, 2, 3])
def test_pooling_comes_after_the_convolution_that_is_named(pool_after: int) -> None:
    network = CNN(widths=(4, 6, 8), pool_after=pool_after).network
    assert isinstance(network, torch.nn.Sequential)
    shapes = []
    features = torch.zeros(2, 1, 28, 28)
    for layer in network:
        features = layer(features)
        if isinstance(layer, torch.nn.Conv2d):
            shapes.append(tuple(features.shape[1:]))
    assert shapes == [(width, *((14, 14) if number < pool_after else (7, 7))) for number, width in enumerate((4, 6, 8))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (1, 0)}, "widths [1, 0] is not allowed; it must be 1 or more each, such as [16, 32, 64]"),
        ({"widths": (1, 2), "pool_after": 3}, "pool_after 3 is not allowed; it must be between 1 and 2"),
        ({"dropout": 1.0}, "dropout 1.0 is not allowed; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_arguments_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        CNN(**options)
    assert str(error.value) == message
