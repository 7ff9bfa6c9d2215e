"""The service under load and under attack, over loopback: `python -m benchmarks.serving`.

Measures the start of `serve` with an ONNX file, one request's latency beside the bare model, requests a second with 1,
8 and 64 clients, which share the machine with the server, and what becomes of thousands of malformed requests.
"""

import contextlib
import http.client
import io
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import measure
from mnist_lightning import sources
from mnist_lightning.__main__ import main as run_program
from mnist_lightning.exported import ExportedClassifier
from mnist_lightning.images import find_digits


class Service(NamedTuple):
    """A server that runs.

    Attributes:
        process: Its first process.
        port: Where it listens, on loopback.
        seconds: From its start until it was ready.
    """

    process: subprocess.Popen[str]
    port: int
    seconds: float


@contextlib.contextmanager
def serve(*flags: str, cwd: Path | None = None) -> Iterator[Service]:
    """Runs `serve` on a free port, and stops it at the end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mnist_lightning", "serve", "--port", "0", *flags]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready"):
                break
        else:
            raise RuntimeError("".join(lines))
        seconds = time.perf_counter() - start
        reader = threading.Thread(target=process.stdout.read)  # or its log would fill the pipe, and stop it
        reader.start()
        try:
            yield Service(process, int(line.split()[1].rpartition(":")[2]), seconds)
        finally:
            process.terminate()
            process.wait()
            reader.join()


def memory(process: subprocess.Popen[str]) -> float:
    """Returns the resident MiB of a server and its children."""
    command = ["ps", "-o", "rss=", "--pid", str(process.pid), "--ppid", str(process.pid)]
    found = subprocess.run(command, capture_output=True, check=True)
    return sum(map(int, found.stdout.split())) / 1024


def post(connection: http.client.HTTPConnection, body: bytes, content_type: str) -> int:
    """Sends a request; returns the answer's status."""
    connection.request("POST", "/predict", body, {"Content-Type": content_type})
    response = connection.getresponse()
    response.read()
    return response.status


def latency(call: Callable[[], object], count: int) -> dict[str, float]:
    """Returns the milliseconds that half and 99 % of the calls stay below."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(1000 * (time.perf_counter() - start))
    return {"p50 ms": float(np.quantile(seconds, 0.5)), "p99 ms": float(np.quantile(seconds, 0.99))}


def load(port: int, num_clients: int, seconds: float, body: bytes, content_type: str) -> Counter[str]:
    """Lets clients ask one request after the other; returns how often each status came."""
    end = time.perf_counter() + seconds

    def ask(_: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.perf_counter() < end:
            try:
                counts[str(post(connection, body, content_type))] += 1
            except (OSError, http.client.HTTPException) as error:
                counts[type(error).__name__] += 1
                connection.close()
        return counts

    with ThreadPoolExecutor(num_clients) as pool:
        return sum(pool.map(ask, range(num_clients)), Counter())


def _request(body: bytes, content_type: str = "image/png", path: str = "/predict", length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def _picture(chance: random.Random, kind: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(chance.randrange(10**6)).integers(230, 256, (64, 48), "u1")
    pixels[10:50, 20:26] = 0
    more = {"append_images": [Image.fromarray(pixels)], "save_all": True} if kind in ("tiff", "mpo") else {}
    Image.fromarray(pixels).save(stream, kind, **more)
    return stream.getvalue()


KINDS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "mpo"]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _specks(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    dots = np.random.default_rng(chance.randrange(10**6)).random((400, 400)) > chance.choice([0.9, 0.99, 0.999])
    Image.fromarray(dots).save(stream, "png")
    return _request(stream.getvalue(), path="/predict?digits=many")


def _bomb(chance: random.Random) -> bytes:
    side = chance.choice([3_900, 5_000, 30_000, 2**31 - 1])
    header = side.to_bytes(4, "big") * 2 + bytes([8, chance.choice([0, 2, 6]), 0, 0, 0])
    data = zlib.compress(b"\0" * min(side * (side + 1), 2**24))
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


def _truncated(chance: random.Random) -> bytes:
    content = _picture(chance, chance.choice(KINDS))
    return _request(content[: chance.randrange(1, len(content))])


def _flipped(chance: random.Random) -> bytes:
    content = bytearray(_picture(chance, chance.choice(KINDS)))
    for _ in range(chance.randrange(1, 30)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return _request(bytes(content), path=chance.choice(["/predict", "/predict?digits=many"]))


def _json(chance: random.Random) -> bytes:
    rows = [[0] * 28] * 28
    wrong: Any = chance.choice(
        [None, 7, "7", {}, [], [rows[1:]], [[*rows[1:], ["a" * 10_000] * 28]], [rows] * 300, [[[0.5] * 28] * 28]]
    )
    nan = json.dumps({"images": [[[chance.choice([float("nan"), float("inf"), -1, 256, 10**400])] * 28] * 28]})
    text = chance.choice(
        [json.dumps({"images": wrong}), nan, "{", "[" * 100_000, '{"a":' * 50_000, "1" * 5_000, "\ud800x", ""]
    )
    return _request(text.encode(errors="surrogatepass"), "application/json")


def _huge(chance: random.Random) -> bytes:
    return _request(b"[0," * 800_000, chance.choice(["application/json", "image/png", "multipart/form-data"]))


def _form(chance: random.Random) -> bytes:
    name, boundary = chance.choice(["image", "picture"]), chance.choice(["x", "y", ""])
    part = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'.encode()
    body = part * chance.choice([1, 2, 2_000]) + chance.choice([b"", b"7", _picture(chance, "png")[:200]])
    return _request(body + chance.choice([b"\r\n--x--", b""]), f"multipart/form-data; boundary={boundary}")


def _type(chance: random.Random) -> bytes:
    kind = chance.choice(["text/html", "application/pdf", "image/svg+xml", "", "a/b; c=\xff", "image/heic"])
    return _request(b"<svg onload=alert(1)>", kind)


def _place(chance: random.Random) -> bytes:
    method, path = (
        chance.choice(["GET", "PUT", "DELETE", "PATCH", "BREW"]),
        chance.choice(
            ["/predict", "/../../etc/passwd", "/static/%2e%2e/app.py", "/no", "/predict?digits=%00", "//", "/%ff"]
        ),
    )
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _line(chance: random.Random) -> bytes:
    return chance.choice(
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
    "truncated pictures": (_truncated, 1200),
    "pictures with changed bytes": (_flipped, 1200),
    "bombs": (lambda chance: _request(_bomb(chance)), 200),
    "specks": (_specks, 50),
    "wrong JSON": (_json, 850),
    "huge bodies": (_huge, 100),
    "wrong forms": (_form, 500),
    "wrong types": (_type, 300),
    "wrong methods and paths": (_place, 300),
    "broken heads": (_line, 200),
}
"""What is sent, and how often."""
NUM_SLOW = 50


def send(port: int, content: bytes, half_closed: bool = False) -> str:
    """Sends bytes; returns the status that came back, or `closed`."""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):  # an answer may come before all is sent
            connection.sendall(content)
            if half_closed:
                connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
        if answer.startswith(b"HTTP/"):
            return answer.split()[1].decode()
    return "closed"


def trickle(port: int, head: bytes, drops: bytes) -> str:
    """Sends a request whose end comes drop by drop; returns when the server had enough of it."""
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head)
        try:
            for drop in drops:
                connection.sendall(bytes([drop]))
                time.sleep(0.2)
        except ConnectionError:
            return f"closed after {5 * round((time.perf_counter() - start) / 5)} s"
    return "kept"


def linger(port: int) -> str:
    """Asks and doesn't hang up; returns the status that came back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        status = connection.recv(100).split()[1].decode()
        time.sleep(5)
    return status


def attack(port: int, share: float = 1) -> list[dict[str, Any]]:
    """Sends malformed requests; returns the answers by kind.

    Args:
        port: Where the server listens.
        share: How many of them, as a fraction of 5,000.
    """
    rows = []
    for name, (make, count) in MALFORMED.items():
        chances = [random.Random(f"{name} {number}") for number in range(max(1, round(count * share)))]
        with ThreadPoolExecutor(8) as pool:
            counts = Counter(pool.map(lambda chance: send(port, make(chance)), chances))  # noqa: B023 - used at once
        rows.append({"kind": name, "requests": len(chances), "answers": dict(sorted(counts.items()))})
    num_slow = max(1, round(NUM_SLOW * share))
    patient = _request(b"7", length=1000)
    slow: dict[str, Callable[[int], str]] = {
        "half-closed connections": lambda _: send(port, patient, half_closed=True),
        "trickled heads": lambda _: trickle(port, b"", patient * 3),
        "trickled bodies": lambda _: trickle(port, patient, b"7" * 200),
        "clients that don't hang up": lambda _: linger(port),
    }
    for name, call in slow.items():
        with ThreadPoolExecutor(num_slow) as pool:
            counts = Counter(pool.map(call, range(num_slow)))
        rows.append({"kind": name, "requests": num_slow, "answers": dict(sorted(counts.items()))})
    return rows


def main() -> None:
    """Measures start, latency, load and malformed requests."""
    args = measure.parse("The service", seconds=30.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        run_program(["export", "--ckpt_path", "pretrained", "--output", str(path)])
        starts = []
        for _ in range(args.repeats + 1):
            with serve("--model", str(path)) as service:
                starts.append(service.seconds)
        rows: list[dict[str, Any]] = [{"what": "start", "seconds": measure.summarise(starts[1:])}]
        digits, _ = sources.load("MNIST", "test", Path(folder))
        stream = io.BytesIO()
        Image.fromarray(255 - digits[0].numpy()).resize((560, 560)).save(stream, "png")
        picture, array = stream.getvalue(), json.dumps({"images": [digits[0].tolist()]}).encode()
        classifier, image = ExportedClassifier(path), digits[:1].numpy()
        with serve("--model", str(path)) as service:
            connection = http.client.HTTPConnection("127.0.0.1", service.port)
            for what, call in {
                "the bare model": lambda: classifier(image),
                "the API, JSON": lambda: post(connection, array, "application/json"),
                "find_digits and the bare model": lambda: classifier(find_digits(picture)[0].image[None]),
                "the API, a drawing of 560 x 560": lambda: post(connection, picture, "image/png"),
            }.items():
                connection.close()  # idle while the bare model was measured; it opens again by itself
                latency(call, 50)
                rows.append({"what": what, **latency(call, 1000)})
            for num_clients in (1, 8, 64):
                before = memory(service.process)
                counts = load(service.port, num_clients, args.seconds, picture, "image/png")
                rows.append(
                    {
                        "what": f"{num_clients} clients",
                        "answered/s": counts["200"] / args.seconds,
                        "answers": dict(counts),
                        "MiB before, after": f"{before:.0f}, {memory(service.process):.0f}",
                    }
                )
            before = memory(service.process)
            rows += [
                {"what": f"{row['requests']} {row['kind']}", "answers": row["answers"]} for row in attack(service.port)
            ]
            rows[-1]["MiB before, after"] = f"{before:.0f}, {memory(service.process):.0f}"
            connection.close()
            rows.append({"what": "after all that", **latency(lambda: post(connection, picture, "image/png"), 100)})
    columns = ["what", "seconds", "p50 ms", "p99 ms", "answered/s", "answers", "MiB before, after"]
    measure.report("serving", rows, columns, args.output)


if __name__ == "__main__":
    main()
