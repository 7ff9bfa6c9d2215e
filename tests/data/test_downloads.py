"""A mirror that fails is skipped, and what is stored is correct or not there."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_lightning.data import sources
from mnist_lightning.data.sources import File, Source, download
from mnist_lightning.errors import UserError

CONTENT = bytes(range(256)) * 800
MD5 = hashlib.md5(CONTENT).hexdigest()
CHECKSUM = f"md5:{MD5}"
TEST_IS_OVER = threading.Event()


class Mirror(BaseHTTPRequestHandler):
    """Answers as the first part of the path says."""

    requested: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _begin(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.requested.append(self.path)
        if kind.isdecimal():
            self._begin(int(kind), 0)
        elif kind == "circle":
            self._begin(302, 0, Location="/circle")
        elif kind == "silent":
            TEST_IS_OVER.wait(20)
        elif kind == "stuck":
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT[:1000])
            TEST_IS_OVER.wait(20)
        elif kind == "cut":
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
        elif kind == "wrong":
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT[::-1])
        else:
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves every kind of mirror on loopback, and shortens the timeout."""
    monkeypatch.setattr(sources, "TIMEOUT_S", 1)
    Mirror.requested = []
    TEST_IS_OVER.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        TEST_IS_OVER.set()
        server.shutdown()


def fetch(mirrors: list[str], folder: Path) -> None:
    """Downloads `a.gz` from the first of these mirrors that has it."""
    source = Source((), 0.2, 0.3, "Any", {}, [f"{mirror}/" for mirror in mirrors])
    download(source, [File("a", compressed=CHECKSUM)], folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("403", "403 Client Error: Forbidden"),
        ("503", "503 Server Error: Service Unavailable"),
        ("circle", "Exceeded 30 redirects"),
        ("silent", r"Read timed out. \(read timeout=1\)"),
        ("stuck", "Read timed out"),
        ("cut", "IncompleteRead"),
        ("wrong", "checksum mismatch"),
    ],
)
def test_next_mirror_is_tried(address: str, tmp_path: Path, kind: str, reason: str) -> None:
    fetch([address + kind, address + "good"], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]
    with pytest.raises(UserError, match=rf"the download failed \({address}{kind}/a\.gz: .*{reason}"):
        fetch([address + kind], tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_reasons_of_all_mirrors_are_reported(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch([address + "wrong", address + "404"], tmp_path)
    first, second, _ = str(error.value).partition("failed (")[2].split("; ")
    assert first == f"{address}wrong/a.gz: checksum mismatch"
    assert second.startswith(f"{address}404/a.gz: 404 Client Error")
    assert Mirror.requested == ["/wrong/a.gz", "/404/a.gz"]


def test_valid_file_is_not_downloaded_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT)
    fetch([address + "good"], tmp_path)
    assert Mirror.requested == []


@pytest.mark.parametrize("content", [b"wrong", CONTENT[:1000], CONTENT + b"0"])
def test_wrong_file_is_replaced(address: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    fetch([address + "good"], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert Mirror.requested == ["/good/a.gz"]


@pytest.mark.parametrize("archive", [None, ("gzip.zip", CHECKSUM)])
def test_files_or_their_archive_are_downloaded(address: str, tmp_path: Path, archive: tuple[str, str] | None) -> None:
    files = [File(name, compressed=CHECKSUM) for name in ("a", "b")]
    mirrors = (f"{address}404/", f"{address}good/")
    download(Source((), 0.2, 0.3, "Any", {}, mirrors, archive), files, tmp_path / "raw")
    names = ["gzip.zip"] if archive else ["a.gz", "b.gz"]
    assert Mirror.requested == [f"/{mirror}/{name}" for name in names for mirror in ("404", "good")]
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == dict.fromkeys(names, CONTENT)


def test_own_dataset_needs_no_checksums(address: str, tmp_path: Path) -> None:
    download(Source((), 0.2, 0.3, "Mine", {}, (f"{address}404/", f"{address}good/")), [File("a")], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_failed_download_leaves_no_file(address: str, tmp_path: Path) -> None:
    raw_dir = tmp_path / "data" / "FashionMNIST" / "raw"
    with pytest.raises(UserError) as error:
        download(
            Source((), 0.2, 0.3, "FashionMNIST", {}, (f"{address}wrong/",)), [File("a", compressed=CHECKSUM)], raw_dir
        )
    assert str(error.value) == (
        f"no valid copy of a in {raw_dir}, and the download failed ({address}wrong/a.gz: checksum mismatch); "
        "put the compressed files there, or name another folder with --data.data_dir"
    )
    assert not list(raw_dir.iterdir())
