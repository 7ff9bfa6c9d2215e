"""Mirrors that misbehave: the next one is tried, and what is stored is right or not there."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_lightning import downloads
from mnist_lightning.downloads import fetch

CONTENT = bytes(range(256)) * 800
CHECKSUM = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
ENOUGH = threading.Event()
"""Set when a test is over, for those that would wait."""


class Mirror(BaseHTTPRequestHandler):
    """Answers as its path says."""

    asked: list[tuple[str, str | None]]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _begin(self, status: int, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _repeat(self, content: bytes, pause_s: float = 0.1) -> None:
        with contextlib.suppress(OSError):  # the other side has had enough
            while not ENOUGH.wait(pause_s):
                self.wfile.write(content)

    def do_GET(self) -> None:
        kind, asked_range = self.path.strip("/"), self.headers["Range"]
        self.asked.append((kind, asked_range))
        start = int(asked_range.removeprefix("bytes=").removesuffix("-")) if asked_range else 0
        if kind.isdecimal():
            self._begin(int(kind), 0)
        elif kind == "circle":
            self._begin(302, 0, Location="/circle")
        elif kind == "silent":
            ENOUGH.wait(20)
        elif kind == "stuck":
            self._begin(200, len(CONTENT))
            ENOUGH.wait(20)
        elif kind == "trickle":
            self._begin(200, len(CONTENT))
            self._repeat(b"0")
        elif kind == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self._repeat(b"0")
        elif kind == "continue":
            self._repeat(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif kind == "chunk":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
            self._repeat(b"0")
        elif kind == "cut":
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
        elif kind == "endless":
            self._begin(200)
            self._repeat(CONTENT, pause_s=0)
        elif kind == "wrong":
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT[::-1])
        elif kind == "simple" or not start:  # knows no ranges
            self._begin(200, len(CONTENT))
            self.wfile.write(CONTENT)
        elif start >= len(CONTENT):
            self._begin(416, 0)
        else:
            self._begin(206, len(CONTENT) - start, Content_Range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.wfile.write(CONTENT[start:])


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves every kind of mirror on loopback, and shortens the limits of time."""
    monkeypatch.setattr(downloads, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(downloads, "LARGEST", 10**7)
    Mirror.asked = []
    ENOUGH.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        ENOUGH.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("403", "HTTP Error 403: Forbidden"),
        ("503", "HTTP Error 503: Service Unavailable"),
        ("circle", "The HTTP server returned a redirect error that would lead to an infinite loop"),
        ("silent", "timed out|only 0 bytes"),
        ("stuck", "timed out|only 0 bytes"),
        ("trickle", "bytes a second"),
        ("header", "only 0 bytes a second"),
        ("continue", "only 0 bytes a second"),
        ("chunk", "only 0 bytes a second"),
        ("cut", "cut off after 102,400 of 204,800 bytes"),
        ("endless", "more than 10,000,000 bytes"),
        ("wrong", "wrong has another file"),
    ],
)
def test_the_next_mirror_is_tried(address: str, tmp_path: Path, kind: str, reason: str) -> None:
    begin = time.monotonic()
    fetch([address + kind, address + "good"], tmp_path / "a", CHECKSUM)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OSError, match=reason):
        fetch([address + kind], tmp_path / "new" / "b", CHECKSUM)
    assert not (tmp_path / "new" / "b").exists()
    assert time.monotonic() - begin < 30


def test_a_download_goes_on_where_it_was_cut_off(address: str, tmp_path: Path) -> None:
    fetch([address + "cut", address + "good"], tmp_path / "a", CHECKSUM)
    assert Mirror.asked == [("cut", None), ("good", f"bytes={len(CONTENT) // 2}-")]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(address: str, tmp_path: Path) -> None:
    fetch([address + "cut", address + "simple"], tmp_path / "a", CHECKSUM)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"wrong", bytes(len(CONTENT) + 1), CONTENT])
def test_another_beginning_is_not_trusted(address: str, tmp_path: Path, beginning: bytes) -> None:
    (tmp_path / ".a.part").write_bytes(beginning)
    fetch([address + "good"], tmp_path / "a", CHECKSUM)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(Mirror.asked) == (1 if beginning == CONTENT else 2)


def test_what_another_process_has_fetched_is_taken(address: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    fetch([address + "good"], tmp_path / "a", CHECKSUM)
    assert Mirror.asked == []
