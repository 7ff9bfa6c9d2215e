"""Malformed requests and slow clients, to which a robust service responds without an error of its own."""

import contextlib
import io
import json
import random
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image


def _request(body: bytes, content_type: str = "image/png", path: str = "/predict", length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def _image(generator: random.Random, format_name: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(generator.randrange(10**6)).integers(230, 256, (64, 48), "u1")
    pixels[10:50, 20:26] = 0
    options = {"append_images": [Image.fromarray(pixels)], "save_all": True} if format_name in ("tiff", "mpo") else {}
    Image.fromarray(pixels).save(stream, format_name, **options)
    return stream.getvalue()


FORMATS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "mpo"]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _specks(generator: random.Random) -> bytes:
    stream = io.BytesIO()
    dots = np.random.default_rng(generator.randrange(10**6)).random((400, 400)) > generator.choice([0.9, 0.99, 0.999])
    Image.fromarray(dots).save(stream, "png")
    return _request(stream.getvalue(), path="/predict?digits=many")


def _bomb(generator: random.Random) -> bytes:
    side = generator.choice([3_900, 5_000, 30_000, 2**31 - 1])
    header = side.to_bytes(4, "big") * 2 + bytes([8, generator.choice([0, 2, 6]), 0, 0, 0])
    data = zlib.compress(b"\0" * min(side * (side + 1), 2**24))
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


def _truncated(generator: random.Random) -> bytes:
    content = _image(generator, generator.choice(FORMATS))
    return _request(content[: generator.randrange(1, len(content))])


def _corrupted(generator: random.Random) -> bytes:
    content = bytearray(_image(generator, generator.choice(FORMATS)))
    for _ in range(generator.randrange(1, 30)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return _request(bytes(content), path=generator.choice(["/predict", "/predict?digits=many"]))


def _invalid_json(generator: random.Random) -> bytes:
    rows = [[0] * 28] * 28
    invalid: Any = generator.choice(
        [None, 7, "7", {}, [], [rows[1:]], [[*rows[1:], ["a" * 10_000] * 28]], [rows] * 300, [[[0.5] * 28] * 28]]
    )
    nan = json.dumps({"images": [[[generator.choice([float("nan"), float("inf"), -1, 256, 10**400])] * 28] * 28]})
    text = generator.choice(
        [json.dumps({"images": invalid}), nan, "{", "[" * 100_000, '{"a":' * 50_000, "1" * 5_000, "\ud800x", ""]
    )
    return _request(text.encode(errors="surrogatepass"), "application/json")


def _huge(generator: random.Random) -> bytes:
    return _request(b"[0," * 800_000, generator.choice(["application/json", "image/png", "multipart/form-data"]))


def _invalid_form(generator: random.Random) -> bytes:
    name, boundary = generator.choice(["image", "picture"]), generator.choice(["x", "y", ""])
    part = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'.encode()
    body = part * generator.choice([1, 2, 2_000]) + generator.choice([b"", b"7", _image(generator, "png")[:200]])
    return _request(body + generator.choice([b"\r\n--x--", b""]), f"multipart/form-data; boundary={boundary}")


def _unsupported_type(generator: random.Random) -> bytes:
    kind = generator.choice(["text/html", "application/pdf", "image/svg+xml", "", "a/b; c=\xff", "image/heic"])
    return _request(b"<svg onload=alert(1)>", kind)


def _unknown_path(generator: random.Random) -> bytes:
    method, path = (
        generator.choice(["GET", "PUT", "DELETE", "PATCH", "BREW"]),
        generator.choice(
            ["/predict", "/../../etc/passwd", "/static/%2e%2e/app.py", "/no", "/predict?digits=%00", "//", "/%ff"]
        ),
    )
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _malformed_head(generator: random.Random) -> bytes:
    return generator.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 500 + b"\r\n",
            b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            _request(b"7", length=-1),
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: foo\r\n\r\n7",
            b"POST /predict HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n7",
            b"GET / HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /x\r\nX-Forwarded-Proto: https\r\n\r\n",
        ]
    )


MALFORMED: dict[str, tuple[Callable[[random.Random], bytes], int]] = {
    "truncated images": (_truncated, 1200),
    "corrupted images": (_corrupted, 1200),
    "decompression bombs": (lambda generator: _request(_bomb(generator)), 200),
    "images full of specks": (_specks, 50),
    "invalid JSON bodies": (_invalid_json, 850),
    "huge bodies": (_huge, 100),
    "invalid forms": (_invalid_form, 500),
    "unsupported content types": (_unsupported_type, 300),
    "unknown methods and paths": (_unknown_path, 300),
    "malformed request heads": (_malformed_head, 200),
}
"""Functions that make malformed requests, and how many are sent of each kind."""
NUM_SLOW = 50
"""Slow clients of each kind."""


def send(port: int, content: bytes, half_closed: bool = False) -> str:
    """Sends bytes; returns the status of the response, or `closed`."""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):  # a response may come before all is sent
            connection.sendall(content)
            if half_closed:
                connection.shutdown(socket.SHUT_WR)
        response = connection.recv(100)
        if response.startswith(b"HTTP/"):
            return response.split()[1].decode()
    return "closed"


def _make_and_send(port: int, make: Callable[[random.Random], bytes], generator: random.Random) -> str:
    return send(port, make(generator))


def send_slowly(port: int, first: bytes, rest: bytes) -> str:
    """Sends the rest of a request byte by byte; returns when the server closed the connection, or `still open`."""
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(first)
        try:
            for byte in rest:
                connection.sendall(bytes([byte]))
                time.sleep(0.2)
        except ConnectionError:
            return f"closed after {5 * round((time.perf_counter() - start) / 5)} s"
    return "still open"


def linger(port: int) -> str:
    """Sends a request, and keeps the connection open; returns the status of the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        status = connection.recv(100).split()[1].decode()
        time.sleep(5)
    return status


def attack(port: int, fraction: float = 1) -> list[dict[str, Any]]:
    """Sends malformed requests; returns the number of responses by kind and status.

    Args:
        port: The port of the server.
        fraction: Fraction of the requests that are sent.
    """
    rows = []
    for name, (make, count) in MALFORMED.items():
        generators = [random.Random(f"{name} {number}") for number in range(max(1, round(count * fraction)))]
        with ThreadPoolExecutor(8) as pool:
            counts = Counter(pool.map(partial(_make_and_send, port, make), generators))
        rows.append({"kind": name, "requests": len(generators), "responses": dict(sorted(counts.items()))})
    num_slow = max(1, round(NUM_SLOW * fraction))
    incomplete = _request(b"7", length=1000)
    slow: dict[str, Callable[[int], str]] = {
        "half-closed connections": lambda _: send(port, incomplete, half_closed=True),
        "slow request heads": lambda _: send_slowly(port, b"", incomplete * 3),
        "slow request bodies": lambda _: send_slowly(port, incomplete, b"7" * 200),
        "clients that keep connections open": lambda _: linger(port),
    }
    for name, call in slow.items():
        with ThreadPoolExecutor(num_slow) as pool:
            counts = Counter(pool.map(call, range(num_slow)))
        rows.append({"kind": name, "requests": num_slow, "responses": dict(sorted(counts.items()))})
    return rows
