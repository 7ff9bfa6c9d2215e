"""The command `serve`: which model, on which address. No torch here, but in a process of its own to export with."""

import argparse
import hashlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_lightning import runs
from mnist_lightning.errors import Parser, needs_extra, one_line_errors

if TYPE_CHECKING:
    from flask import Flask

Result = TypeVar("Result")


def serve(flags: Sequence[str]) -> None:
    """Serves a page to draw on and a JSON API until it is told to stop."""
    with one_line_errors("serve"), needs_extra("serve"):
        args = _parse(flags)
        from mnist_lightning.server.process import Server

        listener = _listen(args.host, args.port)
    with listener:
        with one_line_errors("serve"), needs_extra("serve"):
            path = args.model or _exported(args.ckpt_path)
            metadata = _in_a_process(_metadata, path)  # a file that can't be used is told before there are workers
        host, port = listener.getsockname()[:2]

        def tell() -> None:
            print(f"model       {path}, {metadata['model']} on {metadata['dataset']}", flush=True)
            print(f"ready       http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)", flush=True)

        Server(partial(_make_app, path), listener.detach(), args.workers, tell).run()


def _make_app(path: Path) -> "Flask":
    from mnist_lightning.exported import ExportedClassifier
    from mnist_lightning.server.app import create_app

    return create_app(ExportedClassifier(path))


def _metadata(path: Path) -> dict[str, str]:
    from mnist_lightning.exported import ExportedClassifier

    return ExportedClassifier(path).metadata


def _in_a_process(function: Callable[..., Result], *args: object) -> Result:
    """Calls a function in a process of its own, since neither torch nor onnxruntime survives a later fork."""
    context = multiprocessing.get_context("fork")  # which knows what has been imported
    ending = (signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches both, and this process tells
    with ProcessPoolExecutor(1, context, signal.signal, ending) as pool:
        return pool.submit(function, *args).result()


def _parse(flags: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mnist_lightning serve", description="A page to draw on, and a JSON API.", allow_abbrev=False)
    parser.add_argument("--ckpt_path", help="file, best, last or pretrained (default: best, or else pretrained)")
    parser.add_argument("--model", type=Path, help="ONNX file of export, instead of a checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    args = parser.parse_args(flags)
    if args.model and args.ckpt_path:
        raise ValueError("--model and --ckpt_path are given; leave out one of them")
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers} is not allowed; it must be 1 or more")
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port} is not allowed; it must be 0 to 65535")
    return args


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        problem = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ValueError(f"--host {host} --port {port} can't be listened on: {problem}; give another") from error


def _exported(ckpt_path: str | None) -> Path:
    """Returns the ONNX file of a checkpoint, which is made at its first use."""
    if ckpt_path is None:
        try:
            checkpoint = runs.find("best", runs.LOGS_DIR)
        except FileNotFoundError:
            checkpoint = runs.PRETRAINED
    else:
        checkpoint = runs.find(ckpt_path, runs.LOGS_DIR)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_lightning"
    path = cache / f"{digest[:32]}-{version('mnist_lightning')}.onnx"
    if not path.exists():
        print(f"exporting   {checkpoint}, this once", flush=True)
        _in_a_process(_export, ["--ckpt_path", str(checkpoint), "--output", str(path)])
    return path


def _export(flags: Sequence[str]) -> None:
    from mnist_lightning import cli

    cli.export(flags)
