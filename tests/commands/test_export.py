"""The flags of `export`."""

from pathlib import Path

import pytest

from tests.conftest import line_of


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--output", "."], "error: . can't be written (Is a directory); choose another location"),
        (["--ckpt_path", "no.ckpt"], "checkpoint no.ckpt is not a file; use a path, best, last or pretrained"),
        (["--output", "a.onnx", "--web", "site"], "and --web the folder of a page; omit one of them"),
        (["--outputs", "a.onnx"], "see python -m mnist_lightning export --help"),
    ],
)
def test_wrong_flag_is_reported(flags: list[str], problem: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem in line_of(["export", *flags], capsys)
