"""The command `export`: writes a checkpoint as a verified ONNX file, or as a page for any static host."""

import hashlib
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.console import command_line, echo
from mnist_lightning.errors import UserError
from mnist_lightning.serving.export import export_onnx, export_page


def _add_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument("--output", type=str | None, default=None)
    parser.add_argument("--web", type=str | None, default=None)


def export(flags: Sequence[str]) -> None:
    """Writes a checkpoint as one ONNX file, after verifying that it predicts the same; or with `--web`, as a page."""
    cli = CLI("export", flags, add_flags=_add_flags)
    data, path = cli.datamodule, Path(cli.config.output or "model.onnx")
    if cli.config.web and cli.config.output:
        raise UserError("--output names an ONNX file, and --web the folder of a page; omit one of them")
    data.setup("test")
    expected = torch.from_numpy(cli.model.predict(data.test_images).probabilities)
    accuracy = (expected.argmax(1) == data.test_labels).float().mean().item()
    details = {
        "model": type(cli.model).__name__,
        "dataset": data.dataset,
        "accuracy": f"{accuracy:.4f}",
        "checkpoint": ", ".join(map(str, cli.ckpt_paths)),
        "checkpoint_sha256": ", ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in cli.ckpt_paths),
        **{package: version(package) for package in ("mnist_lightning", "torch")},
    }
    echo(f"checkpoint  {details['checkpoint']}")
    if folder := cli.config.web:
        export_page(cli.model, Path(folder), details)
        echo(f"page        {folder}")
        echo(f"next        {shlex.join(['python', '-m', 'http.server', '--directory', folder])}")
        return
    difference = export_onnx(cli.model, path, data.test_images, expected, details)
    same = f"the same predictions, probabilities within {difference:.1e}, accuracy {accuracy:.2%}"
    echo(f"verified    {len(data.test_images):,} images: {same}")
    echo(f"model       {path}, {path.stat().st_size / 1e6:.2f} MB")
    echo(f"next        {command_line('serve', '--model', path)}")
