"""Outliers are pictures, repeatable, varied, and never a digit that was only cut or turned into another one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnist_lightning.__main__ import main
from mnist_lightning.data import outliers
from mnist_lightning.data.augmentation import Augmentation, draw_path
from mnist_lightning.data.module import MNISTDataModule, scale
from mnist_lightning.data.outliers import make_outliers, scribble
from mnist_lightning.errors import UserError
from mnist_lightning.models import MLP
from tests.conftest import MLP as MLP_FLAGS
from tests.conftest import RUN, SMALL, line_of

LAST = RUN / "checkpoints" / "last.ckpt"

Kind = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = MNISTDataModule()
    data.setup("test")
    return scale(data.test_images[:200]), data.test_labels[:200]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_outliers_are_pictures_that_the_generator_decides(digits: tuple[Tensor, Tensor]) -> None:
    pictures = make_outliers(*digits, 60, generator())
    assert pictures.shape == (60, 1, 28, 28)
    assert pictures.min() >= 0 and 0.9 < pictures.amax((1, 2, 3)).mean() <= 1
    assert torch.equal(pictures, make_outliers(*digits, 60, generator()))
    assert not torch.equal(pictures, make_outliers(*digits, 60, generator(1)))
    distances = torch.cdist(pictures.flatten(1), torch.cat([pictures, digits[0]]).flatten(1))
    assert distances.fill_diagonal_(9).min() > 0.5  # each differs from the others, and from all digits


def test_a_pen_draws_where_its_path_goes() -> None:
    points = torch.stack([torch.linspace(5, 20, 30), torch.full((30,), 10.0)], 1).unsqueeze(0)
    (picture,) = draw_path(points, torch.tensor([3.0]))
    assert picture[0, 9:12, 5:21].min() > 0.95
    assert picture[0, 14:].max() == picture[0, :7].max() == picture[0, :, 24:].max() == 0


def pairs(digits: tuple[Tensor, Tensor], label: int) -> tuple[Tensor, Tensor]:
    """Returns fifteen digits of one class, twice."""
    images, labels = digits
    chosen = (labels == label).nonzero().flatten()[:15]
    return images[chosen].expand(2, -1, -1, -1, -1), labels[chosen].long().expand(2, -1)


def test_scribbles_are_of_all_kinds() -> None:
    pictures = scribble(400, generator())
    for axis in (2, 3):
        is_symmetric = (pictures - pictures.flip(axis)).abs().amax((1, 2, 3)) < 0.01
        assert 40 < is_symmetric.sum() < 160
    ink = pictures.sum((1, 2, 3))
    assert 20 < ink.quantile(0.05) < ink.quantile(0.95) < 260
    assert pictures[..., :2].mean() < 0.05 and pictures.mean(0).amax() < 0.5  # centered, and no place prevails


@pytest.mark.parametrize("kind", [outliers.cross, outliers.change])
def test_a_1_stays_a_digit(kind: Kind, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = pairs(digits, 1)
    assert [kind(images, labels, generator(seed))[1].sum() for seed in range(5)] == [0] * 5
    labels = torch.stack([labels[0] + 2, labels[1] + 3])  # 3 and 4
    assert any(kind(images, labels, generator(seed))[1].any() for seed in range(5))


def test_what_shows_a_digit_is_replaced(digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "KINDS", (outliers.change,))
    ones, labels = (part[0] for part in pairs(digits, 1))
    pictures = make_outliers(ones, labels, 15, generator())
    assert (torch.cdist(pictures.flatten(1), torch.cat([ones, ones.flip(3)]).flatten(1)) > 2).all()


def test_each_change_is_made_of_the_digits_that_it_makes_unreadable(digits: tuple[Tensor, Tensor]) -> None:
    for function, group in outliers.CHANGES.items():
        images, labels = pairs(digits, group[-1])
        changed, expected = function(images[0]), images[0].sum((1, 2, 3))
        assert changed.shape == images[0].shape
        assert ((changed.sum((1, 2, 3)) > 0.2 * expected) & (changed.sum((1, 2, 3)) < 2 * expected)).all()
        assert (changed - images[0]).abs().sum((1, 2, 3)).min() > 10
        found = [outliers.change(images, labels, generator(seed)) for seed in range(8)]
        assert any((made == changed).flatten(1).all(1)[is_none].any() for made, is_none in found)


def test_digits_side_by_side_keep_their_places(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:100].view(2, 50, 1, 28, 28), digits[1][:100].view(2, 50)
    left = images * torch.tensor([1, 0]).view(2, 1, 1, 1, 1)
    pictures, _ = outliers.squeeze(left, labels, generator())
    assert pictures[..., :14].sum() > 20 * pictures[..., 14:].sum()
    pictures, _ = outliers.squeeze(images, labels, generator())
    assert ((pictures[..., :12].sum((1, 2, 3)) > 5) & (pictures[..., 16:].sum((1, 2, 3)) > 5)).all()


def test_outliers_are_for_digits_alone() -> None:
    with pytest.raises(
        UserError,
        match=r"^outliers 0\.2 is not allowed; it must be 0, or for handwritten digits, more than 0, such as 0\.25$",
    ):
        MNISTDataModule(dataset="FashionMNIST", outliers=0.2).setup("fit")
    with pytest.raises(UserError, match=r"^augmentation\.flags 0\.1 is not allowed; it must be 0, or for handwritten"):
        MNISTDataModule(dataset="FashionMNIST", augmentation=Augmentation(flags=0.1)).setup("fit")


def test_a_model_that_cannot_abstain_refuses_outliers() -> None:
    with pytest.raises(
        UserError, match=r"^the data has outliers, but the model can't abstain; give both the same outliers$"
    ):
        MLP().training_step((torch.zeros(3, 1, 28, 28), torch.tensor([1, 2])), 0)


@pytest.mark.parametrize("outliers", [-1.0, float("inf"), float("nan")])
def test_number_of_outliers_is_checked(outliers: float) -> None:
    with pytest.raises(UserError, match=r"^outliers .* is not allowed"):
        MNISTDataModule(outliers=outliers).setup("fit")


def test_few_outliers_are_possible(digits: tuple[Tensor, Tensor]) -> None:
    assert make_outliers(*digits, 1, generator()).shape == (1, 1, 28, 28)


def test_loss_asks_for_abstention() -> None:
    model = MLP(dropout=0, outliers=0.5)
    images, labels = torch.randn(6, 1, 28, 28, generator=generator()), torch.tensor([1, 2, 3, 4])
    logits = F.pad(model.network(images), (0, 1))
    expected = F.cross_entropy(logits, torch.tensor([*labels, 10, 10]), reduction="sum") / 4  # each counts the same
    torch.testing.assert_close(model.training_step((images, labels), 0), expected)
    assert model.train_scores.compute()["confusion"].sum() == 4


def test_the_probability_of_no_class_is_shared_by_all() -> None:
    model = MLP(outliers=0.5).eval()
    images = torch.randn(6, 1, 28, 28, generator=generator())
    probabilities, none = F.pad(model.network(images), (0, 1)).softmax(1).tensor_split([10], 1)
    torch.testing.assert_close(model(images).softmax(1), probabilities + none / 10)


def test_a_resumed_run_keeps_its_outliers_and_one_without_gets_none(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["fit", *SMALL, *MLP_FLAGS, "--data.outliers", "0.25", "--data.batch_size", "8"]
    main([*flags, "--trainer.max_epochs", "1"])
    stored = torch.load(LAST, weights_only=True)
    assert stored["datamodule_hyper_parameters"]["outliers"] == 0.25
    line = line_of(["fit", "--ckpt_path", "last", "--data.outliers", "0", "--trainer.max_epochs", "2"], capsys)
    assert line.startswith("error: --data.outliers was 0.25 when ")
    del stored["datamodule_hyper_parameters"]["outliers"], stored["datamodule_hyper_parameters"]["augmentation"]["pen"]
    torch.save(stored, LAST)  # as an earlier version wrote it
    line = line_of(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"], capsys)
    assert line.startswith("error: --data.outliers was 0.0 when ")
