"""The HTTP server with real processes, connections and signals."""

import contextlib
import functools
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.attack import MALFORMED, send
from benchmarks.serving import Service, post, serve
from mnist_lightning.serving.app import IDLE_S, MAX_CONNECTIONS
from tests.conftest import UInt8, enable_ctrl_c, png, scan


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Service]:
    with serve("--model", str(exported)) as service:
        yield service


@pytest.fixture(scope="module")
def seven(mnist_images: UInt8) -> bytes:
    """Returns an image of the first test image, a 7."""
    return png(scan(mnist_images[0]))


def ask(port: int, image: bytes) -> object:
    """Returns the prediction for an image."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
        (answer,) = json.loads(connection.getresponse().read())["predictions"]
        return answer["prediction"]


def seconds_until_answered(port: int, image: bytes) -> float:
    start = time.perf_counter()
    assert ask(port, image) == "7"
    return time.perf_counter() - start


SLOW_APP = """
import signal, socket, time
from flask import Flask
from mnist_lightning.errors import interrupt
from mnist_lightning.serving.app import run

signal.signal(signal.SIGTERM, interrupt)
app = Flask("slow")

@app.get("/")
def answer():
    print("computing", flush=True)
    time.sleep(1)
    return "answer"

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
run(app, listener)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_progress_are_answered_after_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_APP],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=enable_ctrl_c,
    )
    assert process.stdout
    port = int(process.stdout.readline())
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert process.stdout.readline() == "computing\n"
        process.send_signal(number)
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b"\r\n\r\nanswer")
    assert process.communicate(timeout=15)[0] == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_is_silent_under_load_and_ends_after_a_signal(
    exported: Path, seven: bytes, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_lightning", "serve", "--model", str(exported), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=enable_ctrl_c,
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0] == f"model       {exported}, CNN on MNIST\n"
    port = int(lines[1].removeprefix("ready       http://127.0.0.1:").removesuffix(" (Ctrl-C to stop)\n"))
    threads = [threading.Thread(target=ask, args=(port, seven)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.send_signal(number)
    assert process.communicate(timeout=15)[0] == ""
    assert process.returncode == 0


@pytest.mark.slow
def test_malformed_requests_cause_no_server_error(service: Service, seven: bytes) -> None:
    requests = [
        make(random.Random(f"{kind} {number}"))
        for kind, (make, count) in MALFORMED.items()
        for number in range(count // 20)
    ]
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(functools.partial(send, service.port), requests))
    assert {"400", "404", "405", "413", "415", "422"} <= statuses
    assert not [status for status in statuses - {"501"} if status.startswith("5")]  # 501: unknown Transfer-Encoding
    assert ask(service.port, seven) == "7"


@pytest.mark.slow
def test_many_clients_are_answered(service: Service, seven: bytes) -> None:
    statuses: list[int] = []

    def run() -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
            statuses.extend(post(connection, seven, "image/png") for _ in range(3))

    threads = [threading.Thread(target=run) for _ in range(160)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 480


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"", b""),
        (HEAD[:30], HEAD[30:35]),
        (HEAD + b"\r\n", b"77777"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b""),
    ],
    ids=["no request", "slow head", "slow body", "open after the response"],
)
def test_slow_clients_do_not_delay_others(service: Service, seven: bytes, first: bytes, rest: bytes) -> None:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        connections = [stack.enter_context(socket.create_connection(address)) for _ in range(20)]
        for connection in connections:
            connection.sendall(first)
        assert seconds_until_answered(service.port, seven) < 2
        for byte in rest:
            for connection in connections:
                connection.sendall(bytes([byte]))
            assert seconds_until_answered(service.port, seven) < 2


def test_half_closed_connection_is_closed(service: Service) -> None:
    assert send(service.port, HEAD + b"\r\n" + b"7" * 500, half_closed=True) == "closed"


@pytest.mark.slow
def test_idle_clients_are_disconnected_and_make_room(service: Service, seven: bytes) -> None:
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
            for _ in range(MAX_CONNECTIONS + 20)
        ]
        assert IDLE_S / 2 < seconds_until_answered(service.port, seven) < 3 * IDLE_S
        assert connections[0].recv(1) == b""
