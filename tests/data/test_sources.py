"""The table of datasets is complete and correct."""

import hashlib
from pathlib import Path

import pytest

from mnist_lightning.data import sources


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_dataset_is_complete(name: str) -> None:
    source = sources.SOURCES[name]
    assert len(source.class_names) == len(set(source.class_names)) == (47 if name == "EMNISTBalanced" else 10)
    assert source.mirrors
    assert all(mirror.startswith(("https://", "http://")) and mirror.endswith("/") for mirror in source.mirrors)
    for split in ("train", "test"):
        assert ["images" in file.name for file in source.files[split]] == [True, False]
        assert all(file.decompressed or file.compressed for file in source.files[split])


def test_bundled_files_match_their_checksums() -> None:
    lines = [line.split() for line in (sources.BUNDLED_DIR / "SHA256SUMS").read_text().splitlines()]
    assert len(lines) == 4
    for digest, name in lines:
        assert hashlib.sha256((sources.BUNDLED_DIR / name).read_bytes()).hexdigest() == digest


def test_mean_and_std_are_those_of_the_training_images() -> None:
    images, _ = sources.load("MNIST", "train", Path("data"))
    pixels = images.double() / 255
    source = sources.SOURCES["MNIST"]
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (source.mean, source.std)


def test_suspected_label_errors_are_test_images() -> None:
    assert len(set(sources.SUSPECTED_LABEL_ERRORS)) == 15
    assert all(0 <= index < 10_000 for index in sources.SUSPECTED_LABEL_ERRORS)
