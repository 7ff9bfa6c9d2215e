"""Only verified files are used; a wrong one is replaced where a good copy exists, else told."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from mnist_lightning import sources
from mnist_lightning.sources import File, Source, Split, load
from tests.conftest import digits, idx

IMAGES, LABELS = digits(100)


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes FashionMNIST a dataset of 100 images with no mirror in reach, and returns its `raw` folder."""
    pair = tuple(
        File(f"train-{kind}", unpacked=checksum(idx(array)), packed=checksum(gzip.compress(idx(array), mtime=0), "md5"))
        for kind, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS))
    )
    source = Source(tuple("0123456789"), 0.2, 0.3, "FashionMNIST", {"train": pair, "test": pair})
    monkeypatch.setitem(sources.SOURCES, "FashionMNIST", source)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [(f"{file.name}.gz", file.packed[4:]) for file in pair])
    return tmp_path / "data" / "FashionMNIST" / "raw"


def put(raw_dir: Path, *, packed: bool) -> list[Path]:
    raw_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, array in (("train-images-idx3-ubyte", IMAGES), ("train-labels-idx1-ubyte", LABELS)):
        path = raw_dir / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
        paths.append(path)
    return paths


def assert_whole(data_dir: Path) -> None:
    images, labels = load("FashionMNIST", "train", data_dir)
    assert torch.equal(images, torch.from_numpy(IMAGES))
    assert torch.equal(labels, torch.from_numpy(LABELS))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serves the packed files on loopback."""
    put(tmp_path / "mirror", packed=True)
    handler = partial(QuietHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("split", "num_images"), [("train", 60_000), ("test", 10_000)])
def test_mnist_comes_with_the_package(split: Split, num_images: int, tmp_path: Path) -> None:
    images, labels = load("MNIST", split, tmp_path / "data")
    assert (images.shape, images.dtype) == ((num_images, 28, 28), torch.uint8)
    assert (labels.shape, labels.dtype) == ((num_images,), torch.uint8)
    assert not (tmp_path / "data").exists()


def test_bundled_files_have_the_sums_beside_them() -> None:
    sums = [line.split() for line in (sources.BUNDLED_DIR / "SHA256SUMS").read_text().splitlines()]
    assert len(sums) == 4
    for digest, name in sums:
        assert hashlib.sha256((sources.BUNDLED_DIR / name).read_bytes()).hexdigest() == digest


def test_means_and_deviations_are_those_of_the_training_images() -> None:
    images, _ = load("MNIST", "train", Path("data"))
    pixels = images.double() / 255
    source = sources.SOURCES["MNIST"]
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (source.mean, source.std)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_row_is_complete(name: str) -> None:
    source = sources.SOURCES[name]
    assert len(source.class_names) == len(set(source.class_names)) == (47 if name == "EMNISTBalanced" else 10)
    assert hasattr(datasets, source.torchvision_class)
    for split in ("train", "test"):
        assert ["images" in file.name for file in source.files[split]] == [True, False]
        assert all(file.unpacked or file.packed for file in source.files[split])


@pytest.mark.parametrize("packed", [True, False])
def test_the_users_own_files_are_used(fashion: Path, packed: bool) -> None:
    paths = put(fashion, packed=packed)
    assert_whole(fashion.parent.parent)
    assert sorted(fashion.iterdir()) == sorted(paths)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, truncate, empty])
@pytest.mark.parametrize("number", [0, 1])
class TestDamage:
    def test_an_unpacked_file_is_mended_from_the_packed_one(
        self, fashion: Path, damage: partial[None], number: int
    ) -> None:
        put(fashion, packed=True)
        path = put(fashion, packed=False)[number]
        good = path.read_bytes()
        damage(path)
        assert_whole(fashion.parent.parent)
        assert path.read_bytes() == good

    def test_a_packed_file_is_downloaded_again(
        self, fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, damage: partial[None], number: int
    ) -> None:
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
        path = put(fashion, packed=True)[number]
        good = path.read_bytes()
        damage(path)
        assert_whole(fashion.parent.parent)
        assert path.read_bytes() == good
        assert len(list(fashion.iterdir())) == 2

    @pytest.mark.parametrize("packed", [True, False])
    def test_without_a_good_copy_it_is_told(
        self, fashion: Path, damage: partial[None], number: int, packed: bool
    ) -> None:
        paths = put(fashion, packed=packed)
        damage(paths[number])
        name = paths[number].name.removesuffix(".gz")
        with pytest.raises(OSError) as error:
            load("FashionMNIST", "train", fashion.parent.parent)
        message = str(error.value)
        assert message.startswith(
            f"no good copy of {name} in {fashion}, and downloading failed (http://127.0.0.1:1/{name}.gz: "
        )
        assert message.endswith(
            "put the files there, packed or unpacked, or name their folder's parent with --data.data_dir"
        )
        assert "\n" not in message
        assert sorted(fashion.iterdir()) == sorted(paths)


def test_a_damaged_bundle_is_told_or_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in sources.BUNDLED_DIR.glob("t10k*.gz"):
        (bundle / path.name).write_bytes(path.read_bytes())
    flip(bundle / "t10k-labels-idx1-ubyte.gz")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:1/"])
    good = sources.BUNDLED_DIR / "t10k-labels-idx1-ubyte.gz"
    monkeypatch.setattr(sources, "BUNDLED_DIR", bundle)
    with pytest.raises(OSError, match=r"^no good copy of t10k-labels-idx1-ubyte in "):
        load("MNIST", "test", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    raw_dir = tmp_path / "data" / "MNIST" / "raw"
    raw_dir.mkdir(parents=True)
    (raw_dir / good.name).write_bytes(good.read_bytes())
    assert len(load("MNIST", "test", tmp_path / "data")[0]) == 10_000


def test_a_download_leaves_only_whole_files(fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/", mirror])
    assert_whole(fashion.parent.parent)
    assert sorted(path.name for path in fashion.iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


def test_a_mirror_with_wrong_content_is_told_and_nothing_is_kept(
    fashion: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flip(tmp_path / "mirror" / "train-labels-idx1-ubyte.gz")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
    with pytest.raises(OSError, match=r"train-labels-idx1-ubyte.gz has another file\); put the files there"):
        load("FashionMNIST", "train", fashion.parent.parent)
    assert [path.name for path in fashion.iterdir()] == ["train-images-idx3-ubyte.gz"]  # which is right


CHILD = """
import sys
from pathlib import Path
from torchvision import datasets
from mnist_lightning import sources
from mnist_lightning.sources import File, Source, load
pair = tuple(File(name, packed="md5:" + md5) for name, md5 in zip(sys.argv[3::2], sys.argv[4::2]))
sources.SOURCES["FashionMNIST"] = Source(tuple("0123456789"), 0.2, 0.3, "FashionMNIST", {"train": pair})
datasets.FashionMNIST.mirrors = [sys.argv[2]]
datasets.FashionMNIST.resources = [(file.name + ".gz", file.packed[4:]) for file in pair]
print(load("FashionMNIST", "train", Path(sys.argv[1]))[0].sum().item())
"""


@pytest.mark.slow
def test_processes_that_prepare_at_the_same_time_do_not_hurt_each_other(
    fashion: Path, mirror: str, tmp_path: Path
) -> None:
    files = sources.SOURCES["FashionMNIST"].files["train"]
    args = [str(fashion.parent.parent), mirror, *(word for file in files for word in (file.name, file.packed[4:]))]
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, *args], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [child.communicate()[0].strip() for child in children] == [str(IMAGES.astype(int).sum())] * 3
    assert len(list(fashion.iterdir())) == 2


def test_emnist_is_read_from_its_archive_and_turned_upright(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = "emnist-digits-test-images-idx3-ubyte", "emnist-digits-test-labels-idx1-ubyte"
    packed = [gzip.compress(idx(array)) for array in (IMAGES, LABELS)]
    pair = tuple(File(name, packed=checksum(content)) for name, content in zip(names, packed, strict=True))
    source = Source(tuple("0123456789"), 0.2, 0.3, "EMNIST", {"train": pair, "test": pair}, transposed=True)
    monkeypatch.setitem(sources.SOURCES, "EMNISTDigits", source)
    raw_dir = tmp_path / "EMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    with zipfile.ZipFile(raw_dir / "gzip.zip", "w") as archive:
        for name, content in zip(names, packed, strict=True):
            archive.writestr(f"gzip/{name}.gz", content)
    images, labels = load("EMNISTDigits", "test", tmp_path)
    assert torch.equal(images, torch.from_numpy(IMAGES).transpose(1, 2))
    assert torch.equal(labels, torch.from_numpy(LABELS))


def test_qmnist_tests_with_the_official_images_and_their_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw_dir = tmp_path / "QMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    records = np.zeros((100, 8), ">i4")
    records[:, 0], records[:, 1] = LABELS, 9999
    contents = {"images": gzip.compress(idx(IMAGES)), "labels": gzip.compress(idx(records))}
    pair = tuple(File(name, packed=checksum(content)) for name, content in contents.items())
    for name, content in contents.items():
        (raw_dir / f"{name}.gz").write_bytes(content)
    source = Source(tuple("0123456789"), 0.2, 0.3, "QMNIST", {"test": pair}, num_test_images=60)
    monkeypatch.setitem(sources.SOURCES, "QMNIST", source)
    images, labels = load("QMNIST", "test", tmp_path)
    assert (len(images), labels.dtype, labels.tolist()) == (60, torch.uint8, LABELS[:60].tolist())


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (b"\0\0\x08", idx(LABELS), "not in IDX format"),
        (idx(IMAGES)[:-1], idx(LABELS), "not in IDX format"),
        (b"\1" + idx(IMAGES)[1:], idx(LABELS), "not in IDX format"),
        (idx(IMAGES), idx(LABELS[:-1]), r"\(100, 28, 28\) images and 99 labels up to 9 don't make a train split"),
        (idx(IMAGES), idx(LABELS + 1), "100 labels up to 10 don't make a train split of Tiny"),
        (idx(IMAGES[:, :27]), idx(LABELS), r"\(100, 27, 28\) images"),
    ],
)
def test_files_without_checksums_must_at_least_fit(tiny: Path, images: bytes, labels: bytes, reason: str) -> None:
    (tiny / "Tiny" / "raw" / "train-images").write_bytes(images)
    (tiny / "Tiny" / "raw" / "train-labels").write_bytes(labels)
    with pytest.raises(ValueError, match=reason):
        load("Tiny", "train", tiny)


@pytest.mark.parametrize("size", [10**12, 10**8])
def test_a_bomb_is_not_unpacked(tiny: Path, size: int) -> None:
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, size // 784, 28, 28)
    packed = gzip.compress(header + bytes(10**7))
    (tiny / "Tiny" / "raw" / "train-images.gz").write_bytes(packed)
    tracemalloc.start()
    with pytest.raises(OSError, match="no good copy of train-images in"):
        load("Tiny", "train", tiny)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_names_in_an_archive_lead_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw_dir = tmp_path / "data" / "EMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    with zipfile.ZipFile(raw_dir / "gzip.zip", "w") as archive:
        archive.writestr("../../../harm", b"harm")
        archive.writestr("gzip/../../harm.gz", b"harm")
    monkeypatch.setattr(datasets.EMNIST, "url", "http://127.0.0.1:1/gzip.zip")
    with pytest.raises(OSError, match="no good copy of emnist-digits-test-images-idx3-ubyte"):
        load("EMNISTDigits", "test", tmp_path / "data")
    assert not list(tmp_path.rglob("harm*"))


def test_a_dataset_that_nobody_serves_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError) as error:
        load("Tiny", "test", tmp_path / "elsewhere")
    raw_dir = tmp_path / "elsewhere" / "Tiny" / "raw"
    expected = f"no good copy of test-images, test-labels in {raw_dir}; put the files there, packed or unpacked"
    assert str(error.value) == expected
    assert not raw_dir.exists()
