"""The entry point answers at once, and reports what it does not know."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

from mnist_lightning import __main__ as entry


def test_help_lists_every_command_and_imports_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['mnist_lightning', '--help']\n"
        "runpy.run_module('mnist_lightning', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == entry.HELP + "[]\n"
    for name in entry.COMMANDS:
        assert name in done.stdout
        assert callable(
            getattr(importlib.import_module(f"mnist_lightning.commands.{entry.MODULES.get(name, name)}"), name)
        )


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    entry.main(args)
    assert capsys.readouterr().out == entry.HELP


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    entry.main(["--version"])
    assert capsys.readouterr().out == f"mnist_lightning {version('mnist_lightning')}\n"


def test_unknown_command_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        entry.main(["train"])
    assert error.value.code == 2
    commands = "fit, validate, test, predict, tune, export, serve"
    assert capsys.readouterr().err == f"error: unknown command 'train'; choose one of {commands}\n"


def test_errors_of_other_processes_are_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit):
        entry.main(["train"])
    assert capsys.readouterr().err == ""
