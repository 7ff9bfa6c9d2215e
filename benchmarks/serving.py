"""The service under load and under attack, over the loopback interface: `python -m benchmarks.serving`.

Measures the startup of `serve` with an ONNX file, the latency of a request compared with the model alone, requests per
second with 1, 8 and 64 clients, which share the machine with the server, and the responses to malformed requests.
"""

import contextlib
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.attack import attack
from mnist_lightning.__main__ import main as run_program
from mnist_lightning.data import sources
from mnist_lightning.images import find_digits
from mnist_lightning.serving.runtime import ExportedClassifier


class Service(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    port: int  # on the loopback interface
    seconds: float  # from its start until it was ready


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
        reader = threading.Thread(target=process.stdout.read)  # otherwise its output would fill the pipe and block it
        reader.start()
        try:
            yield Service(process, urlsplit(line.split()[1]).port or 0, seconds)
        finally:
            process.terminate()
            process.wait()
            reader.join()


def memory(process: subprocess.Popen[str]) -> float:
    """Returns the resident memory of a server and its child processes, in MiB."""
    command = ["ps", "-o", "rss=", "--pid", str(process.pid), "--ppid", str(process.pid)]
    found = subprocess.run(command, capture_output=True, check=True)
    return sum(map(int, found.stdout.split())) / 1024


def post(connection: http.client.HTTPConnection, body: bytes, content_type: str) -> int:
    """Sends a request; returns the status of the response."""
    connection.request("POST", "/predict", body, {"Content-Type": content_type})
    response = connection.getresponse()
    response.read()
    return response.status


def latency(call: Callable[[], object], count: int) -> dict[str, float]:
    """Returns the median and the 99th percentile of a call's latency, in milliseconds."""
    milliseconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {"p50 ms": float(np.quantile(milliseconds, 0.5)), "p99 ms": float(np.quantile(milliseconds, 0.99))}


def load(port: int, num_clients: int, seconds: float, body: bytes, content_type: str) -> Counter[str]:
    """Lets clients send one request after the other; returns the number of responses by status."""
    end = time.perf_counter() + seconds

    def send_requests(_: int) -> Counter[str]:
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
        return sum(pool.map(send_requests, range(num_clients)), Counter())


def main() -> None:
    """Measures startup, latency, load and malformed requests."""
    args = measure.parse("The service under load and under attack", seconds=30.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        run_program(["export", "--ckpt_path", "pretrained", "--output", str(path)])
        starts = []
        for _ in range(args.repeats + 1):
            with serve("--model", str(path)) as service:
                starts.append(service.seconds)
        rows: list[dict[str, Any]] = [{"what": "startup", "seconds": measure.summarize(starts[1:])}]
        digits, _ = sources.load("MNIST", "test", Path(folder))
        stream = io.BytesIO()
        Image.fromarray(255 - digits[0].numpy()).resize((560, 560)).save(stream, "png")
        drawing, array = stream.getvalue(), json.dumps({"images": [digits[0].tolist()]}).encode()
        classifier, image = ExportedClassifier(path), digits[:1].numpy()
        with serve("--model", str(path)) as service:
            connection = http.client.HTTPConnection("127.0.0.1", service.port)
            for what, call in {
                "model alone": lambda: classifier(image),
                "API, JSON": lambda: post(connection, array, "application/json"),
                "find_digits and model alone": lambda: classifier(find_digits(drawing)[0].image[None]),
                "API, drawing of 560 x 560": lambda: post(connection, drawing, "image/png"),
            }.items():
                connection.close()  # the server closes idle ones; it is opened again automatically
                latency(call, 50)
                rows.append({"what": what, **latency(call, 1000)})
            for num_clients in (1, 8, 64):
                before = memory(service.process)
                counts = load(service.port, num_clients, args.seconds, drawing, "image/png")
                rows.append(
                    {
                        "what": f"{num_clients} client{'s' * (num_clients > 1)}",
                        "requests/s": counts["200"] / args.seconds,
                        "responses": dict(counts),
                        "MiB before, after": f"{before:.0f}, {memory(service.process):.0f}",
                    }
                )
            before = memory(service.process)
            rows += [
                {"what": f"{row['requests']:,} {row['kind']}", "responses": row["responses"]}
                for row in attack(service.port)
            ]
            rows[-1]["MiB before, after"] = f"{before:.0f}, {memory(service.process):.0f}"
            connection.close()
            after = latency(lambda: post(connection, drawing, "image/png"), 100)
            rows.append({"what": "API after these requests", **after})
    columns = ["what", "seconds", "p50 ms", "p99 ms", "requests/s", "responses", "MiB before, after"]
    measure.report("serving", rows, columns, args.output)


if __name__ == "__main__":
    main()
