"""Pictures in class folders are split, resized and measured as documented."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from tests.conftest import put_pictures


def load(**options: object) -> MNISTDataModule:
    data = MNISTDataModule("ImageFolder", "pictures", **options)  # type: ignore[arg-type]
    data.setup("fit")
    data.setup("test")
    return data


def test_without_a_test_folder_a_tenth_of_each_class_is_for_testing() -> None:
    put_pictures(Path("pictures"), 20)
    data, again, other = load(channels=3), load(channels=3), load(channels=3, split_seed=1)
    assert data.class_names == ["blue", "green", "red"]
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (data.train_labels.bincount() == torch.tensor([18, 18, 18])).all()
    assert torch.equal(data.test_images, again.test_images)
    assert not torch.equal(data.test_images, other.test_images)


def test_folders_of_both_splits_are_used() -> None:
    put_pictures(Path("pictures/train"), 10)
    put_pictures(Path("pictures/test"), 3, seed=1)
    data = load(image_size=40, channels=3)
    assert data.train_images.shape == (30, 40, 40, 3)
    assert data.test_images.shape == (9, 40, 40, 3)
    assert (data.test_images.float().mean((1, 2)).argmax(1) == 2 - data.test_labels).all()  # blue is the last channel


def test_statistics_are_those_of_the_training_pixels() -> None:
    put_pictures(Path("pictures"), 20)
    data = load(channels=3)
    pixels = data.train_images.double() / 255
    assert data.mean == pytest.approx(pixels.mean().item(), abs=1e-4)
    assert data.std == pytest.approx(pixels.std(correction=0).item(), abs=1e-4)
    assert (data.hparams["mean"], data.hparams["class_names"]) == (data.mean, ["blue", "green", "red"])


def test_picture_of_the_right_size_is_unchanged() -> None:
    put_pictures(Path("pictures"), 4)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    for name in ("red", "green", "blue"):
        Image.fromarray(pixels).save(f"pictures/{name}/9.png")
    data = load(channels=3)
    assert any((image == pixels).all() for image in [*data.train_images.numpy(), *data.test_images.numpy()])


def test_pictures_that_do_not_fit_into_memory_are_decoded_to_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_pictures(Path("pictures"), 20)
    expected = load(channels=3)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100_000))
    data = load(channels=3)
    assert torch.equal(data.train_images, expected.train_images)
    assert "GB are too much for the memory, and are decoded into a file in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["red", "blue"], "there are 1 class folders in pictures; ImageFolder needs 2 to 256"),
        (["red", "blue", "green"], "there are 0 class folders in pictures"),
        (["red/*"], "pictures/red has no pictures; put some there"),
    ],
)
def test_wrong_folders_are_reported(remove: list[str], message: str) -> None:
    put_pictures(Path("pictures"), 3)
    for pattern in remove:
        for path in sorted(Path("pictures").rglob("*"), reverse=True):
            if path.match(f"pictures/{pattern}") or (path.parent.name == pattern):
                path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError) as error:
        load()
    assert message in str(error.value)


def test_damaged_picture_is_named() -> None:
    put_pictures(Path("pictures"), 3)
    Path("pictures/red/broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"red/broken\.png is not in a supported format"):
        load()


def test_other_datasets_keep_their_size() -> None:
    with pytest.raises(
        UserError, match=r"image_size, channels \(64, 1\) is not allowed; it must be \(28, 1\) for MNIST"
    ):
        MNISTDataModule(image_size=64)
