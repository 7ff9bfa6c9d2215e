"""Outliers are pictures, repeatable, varied, and never a digit that was only cut or turned into another one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnist_lightning.__main__ import main
from mnist_lightning.data import outliers
from mnist_lightning.data.augmentation import draw_path
from mnist_lightning.data.module import MNISTDataModule, scale
from mnist_lightning.data.outliers import make_outliers
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


@pytest.mark.parametrize("kind", [outliers.cross, outliers.turn, outliers.halve])
def test_a_1_stays_a_digit(kind: Kind, digits: tuple[Tensor, Tensor]) -> None:
    assert [kind(*pairs(digits, 1), generator(seed))[1].sum() for seed in range(5)] == [0] * 5
    assert any(kind(*pairs(digits, 3), generator(seed))[1].any() for seed in range(5))


def test_what_shows_a_digit_is_replaced(digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "KINDS", (outliers.turn,))
    ones, labels = (part[0] for part in pairs(digits, 1))
    pictures = make_outliers(ones, labels, 15, generator())
    assert (torch.cdist(pictures.flatten(1), torch.cat([ones, ones.flip(3)]).flatten(1)) > 2).all()


def test_digits_are_turned_and_halved(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = pairs(digits, 4)
    turned, is_none = outliers.turn(images, labels, generator())
    ways = torch.stack([images[0].flip(3), images[0].rot90(2, (2, 3)), images[0].rot90(1, (2, 3))])
    assert (ways == turned).flatten(2).all(2).sum(0).tolist() == [1] * 15
    assert is_none.all()
    images, labels = pairs(digits, 0)
    halved, is_none = outliers.halve(images, labels, generator())
    fractions = halved.sum((1, 2, 3)) / images[0].sum((1, 2, 3))
    assert ((fractions > 0.25) & (fractions < 0.75)).all()
    assert is_none.all()


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


@pytest.mark.parametrize("outliers", [-1.0, float("inf"), float("nan")])
def test_number_of_outliers_is_checked(outliers: float) -> None:
    with pytest.raises(UserError, match=r"^outliers .* is not allowed"):
        MNISTDataModule(outliers=outliers).setup("fit")


def test_few_outliers_are_possible(digits: tuple[Tensor, Tensor]) -> None:
    assert make_outliers(*digits, 1, generator()).shape == (1, 1, 28, 28)


def test_loss_asks_for_equal_probabilities_of_outliers() -> None:
    model = MLP(dropout=0)
    images, labels = torch.randn(6, 1, 28, 28, generator=generator()), torch.tensor([1, 2, 3, 4])
    logits = model(images)
    expected = F.cross_entropy(logits[:4], labels) + 0.5 * F.cross_entropy(logits[4:], torch.full((2, 10), 0.1))
    torch.testing.assert_close(model.training_step((images, labels), 0), expected)
    assert model.train_scores.compute()["confusion"].sum() == 4


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
