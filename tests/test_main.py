"""The door answers at once, and tells what it does not know."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from mnist_lightning import __main__ as door
from mnist_lightning import cli, serving


def test_help_lists_every_command_and_imports_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['mnist_lightning', '--help']\n"
        "runpy.run_module('mnist_lightning', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == door.HELP + "[]\n"
    for name in door.COMMANDS:
        assert name in done.stdout
        assert callable(getattr(serving if name == "serve" else cli, name))


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    door.main(args)
    assert capsys.readouterr().out == door.HELP


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    door.main(["--version"])
    assert capsys.readouterr().out == f"mnist_lightning {version('mnist_lightning')}\n"


def test_an_unknown_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        door.main(["train"])
    assert error.value.code == 2
    commands = "fit, validate, test, predict, tune, export, serve"
    assert capsys.readouterr().err == f"error: no command 'train'; choose one of {commands}\n"
