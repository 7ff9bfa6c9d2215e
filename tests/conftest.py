"""Fixtures and helpers: a folder of its own for each test, a tiny dataset, a trained and an exported model."""

import csv
import gzip
import io
import math
import os
import shutil
import signal
import struct
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # each core has a process of tests; more threads would only wait for each other

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock
from PIL import Image

from mnist_lightning import console
from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.data.sources import File, Source, Split

UInt8 = npt.NDArray[np.uint8]

SMALL = ["--data.dataset", "Tiny", "--data.batch_size", "60", "--trainer.accelerator", "cpu"]
MLP = ["--model=MLP", "--model.init_args.hidden_sizes=[24]", "--model.init_args.dropout=0.1"]
MLP += ["--model.init_args.learning_rate=0.01"]  # learns enough in a few steps
RUN = Path("lightning_logs/version_0")
BEST = RUN / "checkpoints" / "best.ckpt"


def line_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs an invalid command, and returns its one-line error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(args)
    line = capsys.readouterr().err
    assert (error.value.code, line.count("\n"), line[:7]) == (2, 1, "error: ")
    return line


def read_csv(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def enable_ctrl_c() -> None:
    """Lets a process receive Ctrl-C; those that a shell starts in the background ignore it, and pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def idx(array: np.ndarray) -> bytes:
    """Returns an array of uint8 or big-endian int32 in IDX format."""
    code = {"u1": 0x08, "i4": 0x0C}[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def digits(num_images: int, num_classes: int = 10) -> tuple[UInt8, UInt8]:
    """Returns images whose class shows in where the ink is, and their labels; all classes are equally frequent."""
    generator = np.random.default_rng(num_images)
    labels = (np.arange(num_images) % num_classes).astype("u1")
    images = generator.integers(0, 40, (num_images, 28, 28), "u1")
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label : 4 + 2 * label, 4:24] = 250
    return images, labels


def scan(image: UInt8, factor: int = 8) -> UInt8:
    """Returns a digit, or several, as if scanned: dark ink on bright paper, and larger."""
    return 255 - np.kron(image, np.ones((factor, factor), np.uint8))


def png(image: UInt8) -> bytes:
    """Returns an image as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def put_pictures(folder: Path, num_pictures: int, seed: int = 0) -> None:
    """Writes pictures of several sizes and formats, mostly red, green or blue, in a folder for each color."""
    generator = np.random.default_rng(seed)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(num_pictures):
            height, width = generator.integers(30, 90, 2)
            pixels = generator.integers(0, 100, (height, width, 3), np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.{('png', 'jpg', 'webp')[number % 3]}")


def put_image(path: Path, label: int) -> None:
    """Writes a scanned digit of `Tiny`."""
    images, labels = digits(100)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(scan(images[list(labels).index(label)], 4)).save(path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns the number of processes of `-n auto`: more than there are cores, because many tests wait."""
    return math.ceil(1.5 * (os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the longest tests first, so that no process of tests has to wait for them at the end."""
    items.sort(key=lambda item: ("longest" not in item.keywords, "slow" not in item.keywords))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mnist_lightning"])
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setattr(console.console, "stderr", False)  # a test of `--output -` leaves it redirected


def put_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes and registers a dataset `Tiny` of 400 training and 100 test images, and returns its `data_dir`."""
    splits: tuple[tuple[Split, int], ...] = (("train", 400), ("test", 100))
    pairs: dict[Split, tuple[File, ...]] = {}
    raw_dir = folder / "data" / "Tiny" / "raw"
    raw_dir.mkdir(parents=True)
    for split, num_images in splits:
        pairs[split] = (File(f"{split}-images"), File(f"{split}-labels"))
        for file, array in zip(pairs[split], digits(num_images), strict=True):
            (raw_dir / f"{file.name}.gz").write_bytes(gzip.compress(idx(array)))
    source = Source(tuple("0123456789"), 0.2, 0.3, "Tiny", pairs, is_handwriting=True)
    monkeypatch.setitem(sources.SOURCES, "Tiny", source)
    return folder / "data"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provides the dataset `Tiny`, and returns its `data_dir`."""
    return put_tiny(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a small MLP on `Tiny` for three epochs, and returns the folder `lightning_logs`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["mnist_lightning"])
        put_tiny(folder, monkeypatch)
        main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3", "--model.init_args.learning_rate", "0.01"])
    return folder / "lightning_logs"


@pytest.fixture
def run(tiny: Path, trained: Path) -> Path:
    """Provides a run folder of its own for each test, all of the same training."""
    shutil.copytree(trained, "lightning_logs")
    return RUN


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports the pretrained weights, once for all processes of the tests, and returns the ONNX file."""
    folder = tmp_path_factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "exported.onnx"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            main(["export", "--ckpt_path", "pretrained", "--output", str(path)])
    return path


@pytest.fixture(scope="session")
def mnist_images() -> UInt8:
    """Returns MNIST's first 200 test images, `(200, 28, 28)`; the first ten are 7, 2, 1, 0, 4, 1, 4, 9, 5, 9."""
    return sources.load("MNIST", "test", Path("data"))[0][:200].numpy()
