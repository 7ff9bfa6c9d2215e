"""Checkpoints become models again, and several of them one."""

import dataclasses
from pathlib import Path

import pytest
import torch

from mnist_lightning import checkpoints
from mnist_lightning.__main__ import main
from mnist_lightning.ensemble import Ensemble, rebuild
from tests.conftest import RUN, SMALL

BEST, LAST = RUN / "checkpoints" / "best.ckpt", RUN / "checkpoints" / "last.ckpt"
LINKED = {"mean": 0.2, "std": 0.3}


def test_a_rebuilt_model_is_calibrated_and_evaluates(run: Path) -> None:
    stored = checkpoints.read(BEST)
    model = rebuild(stored)
    assert not model.training
    assert model.hparams["hidden_sizes"] == [24]
    assert model.temperature == stored.weights["temperature"] != 1


def test_an_unknown_class_is_told(run: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a os\.system, which is none of mnist_lightning"):
        rebuild(dataclasses.replace(checkpoints.read(BEST), model_class="os.system"))


def test_weights_that_do_not_fit_are_told(run: Path) -> None:
    stored = checkpoints.read(BEST)
    wrong = dataclasses.replace(stored, model_options={**stored.model_options, "hidden_sizes": [25]})
    with pytest.raises(ValueError, match="was written by another version"):
        rebuild(wrong)


def test_an_ensemble_is_the_mean_of_probabilities(run: Path) -> None:
    main(["fit", *SMALL, "--model", "CNN", "--model.init_args.widths", "[4, 4]", "--trainer.max_epochs", "1"])
    paths = [str(LAST), "lightning_logs/version_1/checkpoints/best.ckpt"]
    images = torch.randn(20, 1, 28, 28)
    with torch.inference_mode():
        members = [rebuild(checkpoints.read(Path(path)))(images).softmax(1) for path in paths]
        together = Ensemble(paths, **LINKED).eval()(images).softmax(1)
    torch.testing.assert_close(together, sum(members) / 2)


def test_an_ensemble_of_nothing_or_of_other_data_is_told(run: Path) -> None:
    with pytest.raises(ValueError, match="ckpt_paths is empty"):
        Ensemble([])
    with pytest.raises(FileNotFoundError, match=r"checkpoint no\.ckpt is not a file"):
        Ensemble(["no.ckpt"])
    with pytest.raises(ValueError, match=r"best\.ckpt was trained on data with .*'mean': 0\.2"):
        Ensemble([str(BEST)], mean=0.5, std=0.3)
