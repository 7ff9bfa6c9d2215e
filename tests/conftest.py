"""Tiny datasets that the tests write themselves, and a folder of its own for each test."""

import csv
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_lightning import sources
from mnist_lightning.__main__ import main
from mnist_lightning.sources import File, Source, Split

SMALL = ["--data.dataset", "Tiny", "--data.batch_size", "60", "--trainer.accelerator", "cpu"]
MLP = ["--model", "MLP", "--model.init_args.hidden_sizes", "[24]", "--model.init_args.dropout", "0.1"]
RUN = Path("lightning_logs/version_0")
BEST = RUN / "checkpoints" / "best.ckpt"


def line_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line that a command with wrong flags ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(args)
    told = capsys.readouterr().err
    assert (error.value.code, told.count("\n"), told[:7]) == (2, 1, "error: ")
    return told


def read_csv(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def idx(array: np.ndarray) -> bytes:
    """Returns an array of uint8 or big-endian int32 in IDX format."""
    code = {"u1": 0x08, "i4": 0x0C}[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def digits(num_images: int, num_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns images that tell their class by where the ink is, and their labels, every class equally often."""
    generator = np.random.default_rng(num_images)
    labels = (np.arange(num_images) % num_classes).astype("u1")
    images = generator.integers(0, 40, (num_images, 28, 28), "u1")
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 4 + 2 * label, 4:24] = 250
    return images, labels


def put_picture(path: Path, label: int) -> None:
    """Writes a digit of `Tiny` as it would be scanned: dark ink, four times as large."""
    images, labels = digits(100)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(255 - np.kron(images[list(labels).index(label)], np.ones((4, 4), "u1"))).save(path)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mnist_lightning"])
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registers a dataset `Tiny` of 400 training and 100 test images, and returns its `data_dir`."""
    splits: tuple[tuple[Split, int], ...] = (("train", 400), ("test", 100))
    files: dict[Split, tuple[File, ...]] = {}
    raw_dir = tmp_path / "data" / "Tiny" / "raw"
    raw_dir.mkdir(parents=True)
    for split, num_images in splits:
        files[split] = (File(f"{split}-images"), File(f"{split}-labels"))
        for file, array in zip(files[split], digits(num_images), strict=True):
            (raw_dir / f"{file.name}.gz").write_bytes(gzip.compress(idx(array)))
    source = Source(tuple("0123456789"), 0.2, 0.3, "Tiny", files)
    monkeypatch.setitem(sources.SOURCES, "Tiny", source)
    return tmp_path / "data"


@pytest.fixture
def run(tiny: Path) -> Path:
    """Trains a small MLP on `Tiny` for three epochs, and returns the run's folder."""
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3", "--model.init_args.learning_rate", "0.01"])
    return RUN


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports the shipped weights once, and returns the ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    main(["export", "--ckpt_path", "pretrained", "--output", str(path)])
    return path
