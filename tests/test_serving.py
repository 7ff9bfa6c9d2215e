"""The command `serve` as its users run it: real processes, real connections, real signals."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.serving import attack, post, serve
from mnist_lightning.__main__ import main
from mnist_lightning.data import MNISTDataModule
from tests.conftest import line_of
from tests.test_faults import hear_ctrl_c


def drawing() -> bytes:
    """Returns a picture of the first test image, a 7."""
    data = MNISTDataModule()
    data.setup("test")
    stream = io.BytesIO()
    Image.fromarray(255 - np.kron(data.test_images.images[0].numpy(), np.ones((8, 8), "u1"))).save(stream, "png")
    return stream.getvalue()


def ask(port: int, picture: bytes) -> dict[str, object]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/predict", picture, {"Content-Type": "image/png"})
        (answer,) = json.loads(connection.getresponse().read())["predictions"]
        return dict(answer)


def test_an_exported_file_is_served_without_torch(exported: Path) -> None:
    with serve("--model", str(exported), "--workers", "2") as service:
        assert ask(service.port, drawing())["prediction"] == "7"
        children = subprocess.run(["pgrep", "-P", str(service.process.pid)], capture_output=True, text=True, check=True)
        workers = children.stdout.split()
        assert len(workers) == 2
        end = time.monotonic() + 20
        while not all("onnxruntime" in Path(f"/proc/{pid}/maps").read_text() for pid in workers):
            assert time.monotonic() < end  # one answers while the other still loads
            time.sleep(0.1)
        for pid in (str(service.process.pid), *workers):
            files = Path(f"/proc/{pid}/maps").read_text()
            assert ("onnxruntime" in files) == (pid in workers)
            assert "libtorch" not in files


def test_without_a_model_the_shipped_weights_are_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answers, times = [], []
    for _ in range(2):
        with serve() as service:
            answers.append(ask(service.port, drawing()))
        (cached,) = (tmp_path / "cache" / "mnist_lightning").iterdir()
        times.append(cached.stat().st_mtime_ns)
    assert times[0] == times[1]
    assert answers[0] == answers[1]
    assert answers[0]["prediction"] == "7"


def test_ctrl_c_while_it_exports_ends_it_in_order(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_lightning", "serve", "--ckpt_path", "pretrained", "--port", "0"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout
    assert "exporting" in process.stdout.readline()
    time.sleep(0.5)  # in the middle of a fork, Python may lose a signal
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 130


def test_the_command_the_service_and_a_checkpoint_agree(exported: Path) -> None:
    Path("digit.png").write_bytes(drawing())
    main(["predict", "--ckpt_path", "pretrained", "--images", "digit.png", "--output", "p.csv"])
    header, row = (line.split(",") for line in Path("p.csv").read_text().splitlines())
    by_command = dict(zip(header, row, strict=True))
    with serve("--model", str(exported)) as service:
        by_service = ask(service.port, drawing())
    probabilities = by_service["probabilities"]
    assert isinstance(probabilities, dict)
    assert by_service["prediction"] == by_command["prediction"]
    for name, share in probabilities.items():
        assert abs(share - float(by_command[f"p{name}"])) < 2e-5


def test_what_is_asked_before_the_end_is_answered(exported: Path) -> None:
    with serve("--model", str(exported)) as service, contextlib.ExitStack() as stack:
        picture = drawing()
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
        connection.sendall(head.encode() + picture[:100])
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(picture[100:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"][0]["prediction"] == "7"
        assert service.process.wait(timeout=15) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port))


@pytest.mark.slow
def test_malformed_requests_get_no_error_of_the_server(exported: Path) -> None:
    with serve("--model", str(exported)) as service:
        rows = attack(service.port, share=0.05)
        assert ask(service.port, drawing())["prediction"] == "7"
    statuses = {status for row in rows for status in row["answers"]}
    assert {"400", "404", "405", "413", "415", "422"} <= statuses
    assert not [status for status in statuses if status.startswith("5") and status != "503"]
    slow = {row["kind"]: row["answers"] for row in rows if row["kind"].startswith("trickled")}
    assert slow == {kind: {"closed after 10 s": 2} for kind in ("trickled heads", "trickled bodies")}


def test_many_clients_at_once_are_answered_or_asked_to_wait(exported: Path) -> None:
    picture = drawing()
    statuses: list[int] = []
    with serve("--model", str(exported)) as service:

        def run() -> None:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
                statuses.extend(post(connection, picture, "image/png") for _ in range(3))

        threads = [threading.Thread(target=run) for _ in range(160)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(statuses) == 480
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 30


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--ckpt_path", "no.ckpt"], "checkpoint no.ckpt is not a file; give a path, best, last or pretrained"),
        (["--ckpt_path", "a", "--model", "b"], "--model and --ckpt_path are given; leave out one of them"),
        (["--port", "99999"], "--port 99999 is not allowed; it must be 0 to 65535"),
        (["--host", "no.host.invalid"], "--host no.host.invalid --port 0 can't be listened on"),
        (["--workers", "0"], "--workers 0 is not allowed; it must be 1 or more"),
        (["--port", "eighty"], "invalid int value: 'eighty'; see python -m mnist_lightning serve --help"),
    ],
)
def test_bad_input_is_told_in_one_line(flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem in line_of(["serve", *(flags if "--port" in flags else [*flags, "--port", "0"])], capsys)


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = line_of(["serve", "--port", str(taken.getsockname()[1])], capsys)
    assert "can't be listened on: Address already in use; give another" in line


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--model", "no.onnx"], "no.onnx: No such file or directory"),
        (["--model", "text"], "text is no ONNX file of `python -m mnist_lightning export`, or damaged"),
        (["--ckpt_path", "text"], "checkpoint text is damaged, or not a checkpoint at all; train one with"),
    ],
)
def test_a_model_that_can_not_be_served_is_told(flags: list[str], problem: str, tmp_path: Path) -> None:
    Path("text").write_text("hello")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "mnist_lightning", "serve", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {problem}")
    assert not [*tmp_path.glob("cache/**/*.onnx")]


def test_clients_that_do_not_hang_up_keep_nobody_waiting(exported: Path) -> None:
    with serve("--model", str(exported)) as service, contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        start = time.perf_counter()
        assert ask(service.port, drawing())["prediction"] == "7"
        assert time.perf_counter() - start < 2
