"""The command `serve` as its users run it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import serve
from mnist_lightning.__main__ import main
from tests.conftest import UInt8, enable_ctrl_c, line_of, png, read_csv, scan


def ask(port: int, image: bytes) -> dict[str, Any]:
    """Returns the answer for an image."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
        (answer,) = json.loads(connection.getresponse().read())["predictions"]
        return dict(answer)


def test_exported_file_is_served_without_torch(exported: Path, mnist_images: UInt8) -> None:
    with serve("--model", str(exported)) as service:
        assert ask(service.port, png(scan(mnist_images[0])))["prediction"] == "7"
        loaded = Path(f"/proc/{service.process.pid}/maps").read_text()
        assert "onnxruntime" in loaded
        assert "libtorch" not in loaded


@pytest.mark.slow
def test_without_a_run_the_pretrained_weights_are_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_images: UInt8
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answers, times = [], []
    for _ in range(2):
        with serve() as service:
            answers.append(ask(service.port, png(scan(mnist_images[0]))))
        (cached,) = (tmp_path / "cache" / "mnist_lightning").iterdir()
        times.append(cached.stat().st_mtime_ns)
    assert times[0] == times[1]
    assert answers[0] == answers[1]
    assert answers[0]["prediction"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_the_export_ends_both_processes(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_lightning", "serve", "--ckpt_path", "pretrained", "--port", "0"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=enable_ctrl_c,
    )
    assert process.stdout
    assert "exporting" in process.stdout.readline()
    time.sleep(0.5)  # in the middle of a fork, Python may lose a signal
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.wait(timeout=10)
    find, end = ["pgrep", "--session", str(process.pid)], time.monotonic() + 5  # the other one takes a moment to die
    while (left := subprocess.run(find, capture_output=True, text=True).stdout) and time.monotonic() < end:
        time.sleep(0.1)
    for other in left.split():
        os.kill(int(other), signal.SIGKILL)
    assert (process.communicate()[0], process.returncode, left) == ("", 128 + number, "")


@pytest.mark.slow
def test_command_service_and_checkpoint_agree(exported: Path, mnist_images: UInt8) -> None:
    Path("digit.png").write_bytes(png(scan(mnist_images[0])))
    main(["predict", "--ckpt_path", "pretrained", "--images", "digit.png", "--output", "p.csv"])
    (row,) = read_csv(Path("p.csv"))
    with serve("--model", str(exported)) as service:
        answer = ask(service.port, Path("digit.png").read_bytes())
    assert answer["prediction"] == row["prediction"]
    for name, probability in answer["probabilities"].items():
        assert abs(probability - float(row[f"p{name}"])) < 2e-5


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--ckpt_path", "no.ckpt"], "checkpoint no.ckpt is not a file; use a path, best, last or pretrained"),
        (["--ckpt_path", "a", "--model", "b"], "argument --model: not allowed with argument --ckpt_path; see "),
        (["--port", "99999"], "--port 99999 is not allowed; it must be between 0 and 65535"),
        (["--host", "no.host.invalid"], "can't listen on --host no.host.invalid --port 0: "),
        (["--port", "eighty"], "invalid int value: 'eighty'; see python -m mnist_lightning serve --help"),
        (["--workers", "2"], "unrecognized arguments: --workers 2; see python -m mnist_lightning serve --help"),
        (["--model", "no.onnx"], "no.onnx can't be read, is damaged, or was not written by export"),
    ],
)
def test_wrong_flag_is_reported(flags: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem in line_of(["serve", *(flags if "--port" in flags else [*flags, "--port", "0"])], capsys)


def test_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = line_of(["serve", "--port", str(port)], capsys)
    assert (
        line == f"error: can't listen on --host 127.0.0.1 --port {port}: Address already in use; change one of them\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--model", "text"], "text can't be read, is damaged, or was not written by export"),
        (["--ckpt_path", "text"], "checkpoint text is damaged, of another program, or needs code to load; train one"),
    ],
)
def test_unusable_model_is_reported(flags: list[str], problem: str, tmp_path: Path) -> None:
    Path("text").write_text("hello")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "mnist_lightning", "serve", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {problem}")
    assert not [*tmp_path.glob("cache/**/*.onnx")]


@pytest.mark.slow
def test_service_can_be_published_at_a_path(exported: Path, mnist_images: UInt8) -> None:
    with (
        serve("--model", str(exported), "--url_prefix", "/digits") as service,
        closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection,
    ):
        for path in ("/digits/", "/digits/static/page.js", "/digits/readyz", "/readyz"):
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--url_prefix", "digits/", "a path without a slash at the end, such as /digits"),
        ("--cors_origin", "example.org", "an origin, such as https://example.org, or *"),
    ],
)
def test_wrong_address_is_reported(flag: str, value: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["serve", flag, value], capsys) == f"error: {flag} {value} is not allowed; it must be {allowed}\n"
