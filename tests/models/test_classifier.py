"""Classifiers learn, and a checkpoint alone rebuilds them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.nn import functional as F

from mnist_lightning.data.module import MNISTDataModule, normalize
from mnist_lightning.errors import UserError
from mnist_lightning.models import CNN, MLP, Classifier
from mnist_lightning.runs import checkpoints
from mnist_lightning.runs.checkpoints import class_path


def make_trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "enable_checkpointing": False, "num_sanity_val_steps": 0, **options})


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 28, 28), generator=generator, dtype=torch.uint8)
    return normalize(images, 0.1307, 0.3081), torch.arange(30) % 10


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


def test_labels_are_smoothed_only_in_training() -> None:
    model = MLP(label_smoothing=0.3, dropout=0.0)
    images, labels = batch()
    logits = model(images)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(model.training_step((images, labels), 0), smoothed)
    model.test_step((images, labels), 0)
    torch.testing.assert_close(model.test_scores.compute()["loss"], F.cross_entropy(logits, labels))


def test_predict_step_returns_calibrated_probabilities_and_labels() -> None:
    images, labels = batch()
    model = CNN().eval()
    model.temperature.fill_(2)
    found = model.predict_step((images, labels), 0)
    torch.testing.assert_close(found["probabilities"], (model(images) / 2).softmax(1))
    torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(30))
    assert found["labels"] is labels


def test_temperature_calibrates_scores_but_not_forward() -> None:
    images, labels = batch()
    model = CNN().eval()
    logits = model(images)
    model.temperature.fill_(0.5)
    assert torch.equal(model(images), logits)
    assert torch.equal(model.calibrated_logits(images), 2 * logits)
    model.test_step((images, labels), 0)
    torch.testing.assert_close(model.test_scores.compute()["loss"], F.cross_entropy(2 * logits, labels))


def test_each_validation_in_fit_sets_the_temperature(tiny: Path) -> None:
    model, data = MLP(hidden_sizes=(16,)), MNISTDataModule("Tiny", str(tiny))
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, data)
    loss, temperature = trainer.callback_metrics["val/loss"].clone(), model.temperature.clone()
    assert temperature != 1

    def validation_loss() -> float:
        trainer.validate(model, data, verbose=False)
        return trainer.callback_metrics["val/loss"].item()

    assert validation_loss() == pytest.approx(loss.item(), rel=1e-5)
    assert model.temperature == temperature
    model.temperature.fill_(1)
    assert validation_loss() > loss


def test_only_matrices_decay_and_the_learning_rate_ends_near_zero(tiny: Path) -> None:
    model = CNN(weight_decay=0.5, learning_rate=0.01)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, MNISTDataModule("Tiny", str(tiny), batch_size=50))
    decaying, constant = trainer.optimizers[0].param_groups
    assert (decaying["weight_decay"], constant["weight_decay"]) == (0.5, 0.0)
    assert all(parameter.ndim > 1 for parameter in decaying["params"])
    assert all(parameter.ndim == 1 for parameter in constant["params"])
    assert len(decaying["params"]) + len(constant["params"]) == len(list(model.parameters()))
    assert trainer.global_step == 2 * 8
    assert trainer.optimizers[0].param_groups[0]["lr"] < 1e-6


def test_same_seed_same_weights(tiny: Path) -> None:
    def train(seed: int) -> Tensor:
        seed_everything(seed, verbose=False)
        model = MLP(hidden_sizes=(16,))
        make_trainer(max_epochs=2).fit(model, MNISTDataModule("Tiny", str(tiny)))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first = train(1)
    assert torch.equal(first, train(1))
    assert not torch.equal(first, train(2))


def test_checkpoint_alone_rebuilds_the_model(tiny: Path, tmp_path: Path) -> None:
    model = MLP(hidden_sizes=(16, 8), class_names=tuple("abcdefghij"), mean=0.2, std=0.3)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, MNISTDataModule("Tiny", str(tiny)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")

    stored = checkpoints.read(tmp_path / "model.ckpt")
    assert stored.model_class == "mnist_lightning.models.MLP"
    rebuilt = MLP(**stored.model_options)
    rebuilt.load_state_dict(stored.weights)
    assert rebuilt.class_names == tuple("abcdefghij")
    assert (rebuilt.hparams["mean"], rebuilt.hparams["std"]) == (0.2, 0.3)
    images, _ = batch()
    expected = model.eval().calibrated_logits(images)
    assert torch.equal(rebuilt.eval().calibrated_logits(images), expected)
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.temperature == model.temperature != 1
    assert torch.equal(loaded.eval().calibrated_logits(images), expected)


class Own(MLP):
    pass


def test_class_path_is_where_a_class_is_imported_from() -> None:
    assert class_path(CNN) == "mnist_lightning.models.CNN"
    assert class_path(Own) == "tests.models.test_classifier.Own"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate 0.0 is not allowed; it must be more than 0, such as 0.001"),
        ({"learning_rate": float("inf")}, "learning_rate inf is not allowed; it must be more than 0, such as 0.001"),
        ({"weight_decay": -1.0}, "weight_decay -1.0 is not allowed; it must be 0 or more, such as 0.01"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0 is not allowed; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_arguments_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MLP(**options)
    assert str(error.value) == message


def test_classifier_without_a_network_is_reported() -> None:
    with pytest.raises(UserError, match=r"^Classifier has no network; choose MLP, CNN or a subclass of your own$"):
        Classifier()
