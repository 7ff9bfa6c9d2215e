"""Only verified files are used; where no valid copy exists, the error says what to do."""

import gzip
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_lightning.data import sources
from mnist_lightning.data.sources import File, Source, Split, load, parse_idx
from mnist_lightning.errors import UserError
from tests.conftest import digits, idx

IMAGES, LABELS = digits(100)
ADVICE = "put the compressed files there, or name another folder with --data.data_dir"


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def set_mirrors(monkeypatch: pytest.MonkeyPatch, dataset: str, *mirrors: str) -> None:
    monkeypatch.setitem(sources.SOURCES, dataset, replace(sources.SOURCES[dataset], mirrors=mirrors))


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes FashionMNIST a dataset of 100 images whose only mirror is down, and returns its `raw` folder."""
    pair = tuple(
        File(
            f"train-{kind}",
            decompressed=checksum(idx(array)),
            compressed=checksum(gzip.compress(idx(array), mtime=0), "md5"),
        )
        for kind, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS))
    )
    source = Source(
        tuple("0123456789"), 0.2, 0.3, "FashionMNIST", {"train": pair, "test": pair}, ("http://127.0.0.1:1/",)
    )
    monkeypatch.setitem(sources.SOURCES, "FashionMNIST", source)
    return tmp_path / "data" / "FashionMNIST" / "raw"


def put(raw_dir: Path, *, compressed: bool) -> list[Path]:
    """Writes the files of that dataset to a folder, and returns their paths."""
    raw_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, array in (("train-images-idx3-ubyte", IMAGES), ("train-labels-idx1-ubyte", LABELS)):
        path = raw_dir / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(idx(array), mtime=0) if compressed else idx(array))
        paths.append(path)
    return paths


def assert_loads(raw_dir: Path) -> None:
    images, labels = load("FashionMNIST", "train", raw_dir.parent.parent)
    assert torch.equal(images, torch.from_numpy(IMAGES))
    assert torch.equal(labels, torch.from_numpy(LABELS))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serves the compressed files of that dataset on loopback."""
    put(tmp_path / "mirror", compressed=True)
    handler = partial(QuietHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(("split", "num_images"), [("train", 60_000), ("test", 10_000)])
def test_mnist_comes_with_the_package(split: Split, num_images: int, tmp_path: Path) -> None:
    images, labels = load("MNIST", split, tmp_path / "data")
    assert (images.shape, images.dtype) == ((num_images, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((num_images,), torch.uint8)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("compressed", [True, False])
def test_files_on_the_disk_are_used(fashion: Path, compressed: bool) -> None:
    paths = put(fashion, compressed=compressed)
    assert_loads(fashion)
    assert sorted(fashion.iterdir()) == sorted(paths)


def test_own_dataset_with_the_file_names_of_mnist_is_not_mistaken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = (File("train-images-idx3-ubyte"), File("train-labels-idx1-ubyte"))
    own = Source(tuple("0123456789"), 0.2, 0.3, "Own", {"train": pair})
    monkeypatch.setitem(sources.SOURCES, "Own", own)
    put(tmp_path / "Own" / "raw", compressed=True)
    assert torch.equal(load("Own", "train", tmp_path)[0], torch.from_numpy(IMAGES))


def test_changes_in_memory_do_not_reach_the_files(fashion: Path) -> None:
    put(fashion, compressed=False)
    images, labels = load("FashionMNIST", "train", fashion.parent.parent)
    images.zero_()
    labels.zero_()
    assert_loads(fashion)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, truncate, empty])
@pytest.mark.parametrize("number", [0, 1], ids=["images", "labels"])
class TestDamage:
    def test_compressed_copy_replaces_a_damaged_file(
        self, fashion: Path, damage: Callable[[Path], None], number: int
    ) -> None:
        put(fashion, compressed=True)
        damage(put(fashion, compressed=False)[number])
        assert_loads(fashion)

    def test_damaged_compressed_file_is_downloaded_again(
        self, fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], number: int
    ) -> None:
        set_mirrors(monkeypatch, "FashionMNIST", mirror)
        paths = put(fashion, compressed=True)
        valid = paths[number].read_bytes()
        damage(paths[number])
        assert_loads(fashion)
        assert paths[number].read_bytes() == valid
        assert sorted(fashion.iterdir()) == sorted(paths)

    @pytest.mark.parametrize("compressed", [True, False])
    def test_damaged_file_without_a_valid_copy_is_reported(
        self, fashion: Path, damage: Callable[[Path], None], number: int, compressed: bool
    ) -> None:
        paths = put(fashion, compressed=compressed)
        damage(paths[number])
        name = paths[number].name.removesuffix(".gz")
        with pytest.raises(UserError) as error:
            load("FashionMNIST", "train", fashion.parent.parent)
        message = str(error.value)
        assert message.startswith(
            f"no valid copy of {name} in {fashion}, and the download failed (http://127.0.0.1:1/{name}.gz: "
        )
        assert message.endswith(f"); {ADVICE}")
        assert "\n" not in message
        assert sorted(fashion.iterdir()) == sorted(paths)


def test_damaged_bundled_file_is_reported_or_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in sources.BUNDLED_DIR.glob("t10k*.gz"):
        (bundle / path.name).write_bytes(path.read_bytes())
    flip(bundle / "t10k-labels-idx1-ubyte.gz")
    valid = sources.BUNDLED_DIR / "t10k-labels-idx1-ubyte.gz"
    set_mirrors(monkeypatch, "MNIST", "http://127.0.0.1:1/")
    monkeypatch.setattr(sources, "BUNDLED_DIR", bundle)
    with pytest.raises(UserError, match=r"^no valid copy of t10k-labels-idx1-ubyte in "):
        load("MNIST", "test", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.gz"))
    raw_dir = tmp_path / "data" / "MNIST" / "raw"
    raw_dir.mkdir(parents=True, exist_ok=True)
    (raw_dir / valid.name).write_bytes(valid.read_bytes())
    assert len(load("MNIST", "test", tmp_path / "data")[0]) == 10_000


def test_missing_files_are_downloaded(fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mirrors(monkeypatch, "FashionMNIST", "http://127.0.0.1:1/", mirror)
    assert_loads(fashion)
    assert sorted(path.name for path in fashion.iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


def test_wrong_file_of_a_mirror_is_reported_and_not_kept(
    fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flip(tmp_path / "mirror" / "train-labels-idx1-ubyte.gz")
    set_mirrors(monkeypatch, "FashionMNIST", mirror)
    with pytest.raises(UserError) as error:
        load("FashionMNIST", "train", fashion.parent.parent)
    assert str(error.value) == (
        f"no valid copy of train-images-idx3-ubyte, train-labels-idx1-ubyte in {fashion}, and the download failed "
        f"({mirror}train-labels-idx1-ubyte.gz: checksum mismatch); {ADVICE}"
    )
    assert [path.name for path in fashion.iterdir()] == ["train-images-idx3-ubyte.gz"]  # which is correct


CHILD = """
import sys
from pathlib import Path
from mnist_lightning.data import sources
from mnist_lightning.data.sources import File, Source
pair = tuple(File(name, compressed=checksum) for name, checksum in zip(sys.argv[3::2], sys.argv[4::2]))
sources.SOURCES["FashionMNIST"] = Source(tuple("0123456789"), 0.2, 0.3, "FashionMNIST", {"train": pair}, (sys.argv[2],))
print(sources.load("FashionMNIST", "train", Path(sys.argv[1]))[0].sum().item())
"""


@pytest.mark.slow
def test_processes_can_download_at_the_same_time(fashion: Path, mirror: str) -> None:
    pair = sources.SOURCES["FashionMNIST"].files["train"]
    args = [str(fashion.parent.parent), mirror, *(word for file in pair for word in (file.name, file.compressed))]
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, *args], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [child.communicate()[0].strip() for child in children] == [str(IMAGES.astype(int).sum())] * 3
    assert len(list(fashion.iterdir())) == 2


def test_emnist_is_read_from_its_archive_and_transposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = "emnist-digits-test-images-idx3-ubyte", "emnist-digits-test-labels-idx1-ubyte"
    contents = [gzip.compress(idx(array)) for array in (IMAGES, LABELS)]
    pair = tuple(File(name, compressed=checksum(content)) for name, content in zip(names, contents, strict=True))
    source = Source(tuple("0123456789"), 0.2, 0.3, "EMNIST", {"train": pair, "test": pair}, is_transposed=True)
    monkeypatch.setitem(sources.SOURCES, "EMNISTDigits", source)
    raw_dir = tmp_path / "EMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    with zipfile.ZipFile(raw_dir / "gzip.zip", "w") as archive:
        for name, content in zip(names, contents, strict=True):
            archive.writestr(f"gzip/{name}.gz", content)
    images, labels = load("EMNISTDigits", "test", tmp_path)
    assert torch.equal(images, torch.from_numpy(IMAGES).transpose(1, 2))
    assert torch.equal(labels, torch.from_numpy(LABELS))


def test_nothing_is_extracted_from_an_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw_dir = tmp_path / "data" / "EMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    with zipfile.ZipFile(raw_dir / "gzip.zip", "w") as archive:
        archive.writestr("../../../harm", b"harm")
        archive.writestr("gzip/../../harm.gz", b"harm")
    set_mirrors(monkeypatch, "EMNISTDigits", "http://127.0.0.1:1/")
    with pytest.raises(UserError, match="no valid copy of emnist-digits-test-images-idx3-ubyte"):
        load("EMNISTDigits", "test", tmp_path / "data")
    assert not list(tmp_path.rglob("harm*"))


def test_qmnist_has_the_official_test_images_and_their_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw_dir = tmp_path / "QMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    records = np.zeros((100, 8), ">i4")
    records[:, 0], records[:, 1] = LABELS, 9999
    contents = {"images": gzip.compress(idx(IMAGES)), "labels": gzip.compress(idx(records))}
    pair = tuple(File(name, compressed=checksum(content)) for name, content in contents.items())
    for name, content in contents.items():
        (raw_dir / f"{name}.gz").write_bytes(content)
    source = Source(tuple("0123456789"), 0.2, 0.3, "QMNIST", {"test": pair}, num_test_images=60)
    monkeypatch.setitem(sources.SOURCES, "QMNIST", source)
    images, labels = load("QMNIST", "test", tmp_path)
    assert (len(images), labels.dtype, labels.tolist()) == (60, torch.uint8, LABELS[:60].tolist())


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (b"\0\0\x08", idx(LABELS), "train-images is not in IDX format, or incomplete; replace it with a valid copy"),
        (idx(IMAGES)[:-1], idx(LABELS), "train-images is not in IDX format"),
        (b"\1" + idx(IMAGES)[1:], idx(LABELS), "train-images is not in IDX format"),
        (idx(IMAGES), idx(LABELS)[:3], "train-labels is not in IDX format"),
        (idx(IMAGES), idx(LABELS[:-1]), r"images of shape \(100, 28, 28\) and 99 labels up to 9 are not a train split"),
        (idx(IMAGES), idx(LABELS + 1), "100 labels up to 10 are not a train split of Tiny; replace the files"),
        (idx(IMAGES[:, :27]), idx(LABELS), r"images of shape \(100, 27, 28\)"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), r"images of shape \(0, 28, 28\) and 0 labels"),
    ],
)
def test_files_without_checksums_must_belong_together(tiny: Path, images: bytes, labels: bytes, reason: str) -> None:
    (tiny / "Tiny" / "raw" / "train-images").write_bytes(images)
    (tiny / "Tiny" / "raw" / "train-labels").write_bytes(labels)
    with pytest.raises(UserError, match=reason):
        load("Tiny", "train", tiny)


def test_dataset_without_mirrors_is_reported(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load("Tiny", "test", tmp_path / "elsewhere")
    raw_dir = tmp_path / "elsewhere" / "Tiny" / "raw"
    problem = f"no valid copy of test-images, test-labels in {raw_dir}, and the download failed (no mirror is known)"
    assert str(error.value) == f"{problem}; {ADVICE}"
    assert not raw_dir.exists()


def test_parse_idx_reads_int32_and_uint8() -> None:
    numbers = np.array([[1, -2, 3], [256, 70_000, -(2**31)]])
    found = parse_idx(idx(numbers.astype(">i4")), Path("file"))
    assert (found.dtype, found.tolist()) == (torch.int32, numbers.tolist())
    found = parse_idx(idx(IMAGES), Path("file"))
    assert torch.equal(found, torch.from_numpy(IMAGES))
