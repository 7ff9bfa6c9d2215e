"""The command `serve`: a page to draw on, and a JSON API. No torch here: another process exports a checkpoint."""

import argparse
import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mnist_lightning.console import command_line, program
from mnist_lightning.errors import Parser, UserError, check_range, needs_extra
from mnist_lightning.runs import folders


def serve(flags: Sequence[str]) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    args = _parse(flags)
    with needs_extra("serve"):
        from mnist_lightning.serving.app import create_app, run
        from mnist_lightning.serving.runtime import ExportedClassifier
    with _listen(args.host, args.port) as listener:
        path = args.model or _exported(args.ckpt_path)
        classifier = ExportedClassifier(path)
        host, port = listener.getsockname()[:2]
        print(f"model       {path}, {classifier.metadata['model']} on {classifier.metadata['dataset']}")
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}{args.url_prefix and args.url_prefix + '/'}"
        print(f"ready       {address} (Ctrl-C to stop)", flush=True)
        run(create_app(classifier, args.cors_origin), listener, args.url_prefix)


def _parse(flags: Sequence[str]) -> argparse.Namespace:
    parser = Parser(command_line("serve"), allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--ckpt_path")
    source.add_argument("--model", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--url_prefix", default="")
    parser.add_argument("--cors_origin")
    args = parser.parse_args(flags)
    is_prefix = re.fullmatch("(/[^/?#]+)*", args.url_prefix) is not None
    check_range("--url_prefix", args.url_prefix, is_prefix, "a path without a slash at the end, such as /digits")
    is_origin = re.fullmatch(r"\*|https?://[^/\s]+", args.cors_origin or "*") is not None
    check_range("--cors_origin", args.cors_origin, is_origin, "an origin, such as https://example.org, or *")
    check_range("--port", args.port, 0 <= args.port <= 65535, "between 0 and 65535")
    return args


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        problem = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise UserError(f"can't listen on --host {host} --port {port}: {problem}; change one of them") from error


def _exported(ckpt_path: str | None) -> Path:
    """Returns the cached ONNX file of a checkpoint, exporting it on first use."""
    default = "best" if any(folders.LOGS_DIR.glob("version_*/checkpoints/best.ckpt")) else "pretrained"
    checkpoint = folders.find_checkpoint(ckpt_path or default)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist_lightning"
    path = cache / f"{digest[:32]}-{version('mnist_lightning')}.onnx"
    if not path.exists():
        print(f"exporting   {checkpoint}, once", flush=True)
        flags = ["export", "--ckpt_path", str(checkpoint), "--output", str(path)]
        if status := subprocess.run([sys.executable, *program()[1:], *flags], stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(status)  # it has printed the reason
    return path
