"""The way in from Python: `mnist_lightning.load`, and Lightning's own `load_from_checkpoint`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mnist_lightning
from mnist_lightning.errors import UserError
from mnist_lightning.models import CNN
from mnist_lightning.runs.folders import PRETRAINED
from tests.conftest import BEST, UInt8, digits, scan


def test_pretrained_model_reads_arrays_tensors_and_pictures(mnist_images: UInt8, tmp_path: Path) -> None:
    model = mnist_lightning.load("pretrained")
    answers = model.predict(mnist_images)
    assert answers.classes[:10] == list("7210414959")
    assert answers.probabilities.shape == (200, 10)
    assert (answers.confidences == answers.probabilities.max(1)).all()
    assert (model.predict(torch.from_numpy(mnist_images)).probabilities == answers.probabilities).all()
    path = tmp_path / "seven.png"
    picture = Image.fromarray(scan(mnist_images[0]))
    picture.save(path)
    for images in (path, str(path), picture, path.read_bytes(), [path, picture]):
        read = model.predict(images)
        assert set(read.classes) == {"7"}
        assert len(read.classes) == (2 if isinstance(images, list) else 1)


def test_run_folder_stands_for_its_best_checkpoint(run: Path) -> None:
    images = digits(100)[0]
    by_folder, by_file, newest = (mnist_lightning.load(source).predict(images) for source in (run, BEST, "best"))
    assert by_folder.classes == by_file.classes == newest.classes


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((28, 28), np.uint8),
            r"images of shape \(28, 28\) and torch.uint8 given; use \(N, 28, 28\) and uint8",
        ),
        (np.zeros((1, 28, 28)), r"images of shape \(1, 28, 28\) and torch.float64 given"),
        (np.zeros((0, 28, 28), np.uint8), r"images of shape \(0, 28, 28\)"),
    ],
)
def test_other_arrays_are_rejected(images: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mnist_lightning.load().predict(images)


def test_missing_checkpoint_is_reported() -> None:
    with pytest.raises(UserError, match=r"checkpoint none.ckpt is not a file"):
        mnist_lightning.load("none.ckpt")


def test_lightning_loads_the_pretrained_weights(mnist_images: UInt8) -> None:
    ours, theirs = mnist_lightning.load(), CNN.load_from_checkpoint(PRETRAINED)
    assert (theirs.predict(mnist_images).probabilities == ours.predict(mnist_images).probabilities).all()


def test_import_is_cheap() -> None:
    code = "import sys, mnist_lightning; assert not {'torch', 'numpy', 'lightning'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
