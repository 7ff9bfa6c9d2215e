"""Checkpoints become models again, and several of them one classifier."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_lightning.__main__ import main
from mnist_lightning.errors import UserError
from mnist_lightning.models import CNN, MLP
from mnist_lightning.models.ensemble import Ensemble, known_classes, rebuild
from mnist_lightning.runs import checkpoints
from mnist_lightning.runs.folders import PRETRAINED
from tests.conftest import BEST, SMALL

LAST = BEST.with_name("last.ckpt")
TINY: dict[str, Any] = {"mean": 0.2, "std": 0.3}


def test_rebuilt_model_is_calibrated_and_in_evaluation_mode(run: Path) -> None:
    stored = checkpoints.read(BEST)
    model = rebuild(stored)
    assert not model.training
    assert model.hparams["hidden_sizes"] == [24]
    assert model.temperature == stored.weights["temperature"] != 1


def test_unknown_class_is_reported() -> None:
    stored = dataclasses.replace(checkpoints.read(PRETRAINED), model_class="os.system")
    with pytest.raises(UserError, match=r"holds a os\.system; import this class first$"):
        rebuild(stored)


def test_user_defined_subclasses_are_found() -> None:
    class Own(CNN):
        pass

    known = known_classes()
    assert (known["mnist_lightning.models.CNN"], known["mnist_lightning.models.MLP"]) == (CNN, MLP)
    assert known[f"{__name__}.{Own.__qualname__}"] is Own


def test_mismatched_weights_are_reported() -> None:
    stored = checkpoints.read(PRETRAINED)
    for options in ({"widths": [1, 2]}, {"depth": 3}):
        wrong = dataclasses.replace(stored, model_options={**stored.model_options, **options})
        with pytest.raises(UserError, match=rf"^checkpoint {PRETRAINED} does not fit this version \("):
            rebuild(wrong)


def test_ensemble_is_the_mean_of_calibrated_probabilities(run: Path) -> None:
    main(["fit", *SMALL, "--model", "CNN", "--model.init_args.widths", "[4, 4]", "--trainer.max_epochs", "1"])
    paths = [LAST, Path("lightning_logs/version_1/checkpoints/best.ckpt")]
    images = torch.randn(20, 1, 28, 28)
    ensemble = Ensemble([str(path) for path in paths], **TINY).eval()
    with torch.inference_mode():
        members = [rebuild(checkpoints.read(path)).calibrated_logits(images).softmax(1) for path in paths]
        together = ensemble(images).softmax(1)
    torch.testing.assert_close(together, sum(members) / 2)
    assert ensemble.ckpt_paths == paths


def test_shifted_images_are_averaged() -> None:
    stored = checkpoints.read(PRETRAINED)
    options = {name: stored.model_options[name] for name in ("mean", "std")}
    images = torch.randn(4, 1, 28, 28)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    views = [padded[:, :, top : top + 28, left : left + 28] for top in range(3) for left in range(3)]
    with torch.inference_mode():
        expected = sum(rebuild(stored).calibrated_logits(view).softmax(1) for view in views) / 9
        found = Ensemble(["pretrained"], shift=1, **options).eval()(images).softmax(1)
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match=r"^shift -1 is not allowed; it must be 0 or more, such as 1$"):
        Ensemble(["pretrained"], shift=-1, **options)


def test_unusable_members_are_reported(run: Path) -> None:
    with pytest.raises(UserError, match=r"^ckpt_paths \[\] is not allowed; it must be one or more checkpoints$"):
        Ensemble([])
    with pytest.raises(UserError, match=r"^checkpoint no\.ckpt is not a file"):
        Ensemble(["no.ckpt"])
    with pytest.raises(UserError, match=r"best\.ckpt has classes, mean and std .*, 0\.2, .*, 0\.5, "):
        Ensemble([str(BEST)], mean=0.5, std=0.3)
