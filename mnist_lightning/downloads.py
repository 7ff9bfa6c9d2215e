"""Downloads: what is stored is right or not there, whatever the mirrors do."""

import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from mnist_lightning.files import locked

TIMEOUT_S = 30.0
"""Longest silence of a mirror, in seconds, and after how many it must have been faster than `SLOWEST`."""
SLOWEST = 10_000
"""Bytes a second below which a mirror is given up."""
LARGEST = 1 << 30
"""Bytes of the largest download; EMNIST's is 562 MB."""
CHUNK = 1 << 16


def matches(content: bytes | memoryview | Path, checksum: str) -> bool:
    """Tells whether content, or a file, has a checksum, written as `algorithm:hex digest`."""
    algorithm, _, digest = checksum.partition(":")
    if isinstance(content, Path):
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, algorithm).hexdigest() == digest
    return bool(digest) and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def fetch(urls: Sequence[str], path: Path, checksum: str) -> None:
    """Downloads a file from the first address that gives the right one.

    What a mirror left unfinished stays beside the target, and the next one goes on from there if it can.

    Args:
        urls: Where the file may be had, the best first.
        path: Where it goes.
        checksum: `algorithm:hex digest`.

    Raises:
        OSError: No address gave the right file; each one's reason is told.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    problems = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with locked(path.parent), Progress(*columns, transient=True) as progress:
        if path.exists() and matches(path, checksum):
            return  # another process was faster
        for url in urls:
            task = progress.add_task(path.name, total=None)
            try:
                began_before = part.exists()
                _fetch_one(url, part, progress, task)
                if began_before and not matches(part, checksum):
                    part.unlink()  # another mirror's beginning may be to blame
                    _fetch_one(url, part, progress, task)
                if matches(part, checksum):
                    part.replace(path)
                    return
                part.unlink()
                problems.append(f"{url} has another file")
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
            finally:
                progress.remove_task(task)
    raise OSError("; ".join(problems))


class _Guard(HTTPHandler, HTTPSHandler):
    """Makes connections, and cuts them when too little has come through for too long, whatever they are at.

    urllib's own limit begins anew with each byte, and with each line of a header.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.problem = ""
        self._sockets: list[socket.socket] = []
        self._is_over = threading.Event()

    def http_open(self, request: Request) -> http.client.HTTPResponse:
        """Opens an address; urllib calls it by this name."""
        return self.do_open(partial(self._connection, http.client.HTTPConnection), request)

    def https_open(self, request: Request) -> http.client.HTTPResponse:
        """Opens an address; urllib calls it by this name."""
        return self.do_open(partial(self._connection, http.client.HTTPSConnection), request)

    def _connection(self, kind: type[http.client.HTTPConnection], host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connect = connection.connect

        def connect_and_note() -> None:
            connect()
            self._sockets.append(connection.sock)

        connection.connect = connect_and_note  # type: ignore[method-assign]
        return connection

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, args=(time.monotonic(),), daemon=True).start()
        return self

    def _look(self, begin: float) -> None:
        while not self._is_over.wait(TIMEOUT_S / 10):
            seconds = time.monotonic() - begin
            if seconds > TIMEOUT_S and self.received < SLOWEST * seconds:
                self.problem = f"only {self.received / seconds:.0f} bytes a second"
                for connected in self._sockets:
                    with suppress(OSError):
                        connected.shutdown(socket.SHUT_RDWR)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._is_over.set()
        if self.problem and not isinstance(error, KeyboardInterrupt):
            raise TimeoutError(self.problem) from error


def _fetch_one(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    """Adds to the part what is missing of it, or begins anew where the server can't do that."""
    size = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "mnist_lightning", **({"Range": f"bytes={size}-"} if size else {})})
    with _Guard() as guard:
        try:
            response = build_opener(guard).open(request, timeout=TIMEOUT_S)
        except HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return  # nothing is missing
        with response, part.open("ab") as stream:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                stream.truncate(0)
                size = 0
            length = response.headers.get("Content-Length")
            expected = size + int(length) if length else None
            progress.update(task, total=expected, completed=size)
            while chunk := response.read1(CHUNK):
                stream.write(chunk)
                guard.received += len(chunk)
                progress.update(task, advance=len(chunk))
                if size + guard.received > LARGEST:
                    raise ValueError(f"more than {LARGEST:,} bytes")
    if expected and size + guard.received < expected:
        raise ConnectionError(f"cut off after {size + guard.received:,} of {expected:,} bytes")
