"""Training that does not learn stops, and keeps the last good checkpoint."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mnist_lightning.models import Classifier
from tests.conftest import MLP, RUN, SMALL, line_of


@pytest.mark.parametrize(
    ("rate", "problem"), [("1e2", "every validation image is classified as"), ("1e30", "loss is nan")]
)
def test_diverged_training_stops_without_a_checkpoint(
    tiny: Path, capsys: pytest.CaptureFixture[str], rate: str, problem: str
) -> None:
    many = ["--data.batch_size", "3", "--model.init_args.dropout", "0"]
    line = line_of(["fit", *SMALL, *MLP, *many, f"--model.init_args.learning_rate={rate}"], capsys)
    assert line.startswith("error: training diverged: after epoch 1 ")
    assert problem in line
    advice = f"lower --model.init_args.learning_rate {float(rate):g}, for example to {float(rate) / 10:.2g} "
    advice += "(or --optimizer.lr, if an optimizer was chosen)\n"
    assert line.endswith(advice)
    assert not (RUN / "checkpoints").exists()


def test_divergence_keeps_the_checkpoint_of_the_epoch_before(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end = Classifier.training_step

    def diverge(model: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        return end(model, batch, batch_idx) * (float("nan") if model.current_epoch == 2 else 1)

    monkeypatch.setattr(Classifier, "training_step", diverge)
    assert "after epoch 3 the" in line_of(["fit", *SMALL, *MLP], capsys)
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


class Blind(nn.Module):
    """Ignores the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0 * images


class Constant(Classifier):
    """Can learn how common a class is, and no more."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(Blind(), nn.Flatten(), nn.Linear(784, 10))


def test_model_that_predicts_a_single_class_stops(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mnist_lightning.training.divergence.PATIENCE", 3)
    model = ["--model", "tests.training.test_divergence.Constant", "--model.init_args.learning_rate=1e-9"]
    line = line_of(["fit", *SMALL, *model], capsys)
    assert re.search("after epoch 1 every validation image is classified as '[0-9]'; lower --model.init_args.l", line)
