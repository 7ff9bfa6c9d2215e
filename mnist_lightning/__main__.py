"""Entry point: runs a command; `--help` answers without importing torch."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from mnist_lightning.errors import UserError, did_you_mean, one_line

COMMANDS = {
    "fit": "train a classifier",
    "validate": "score a checkpoint on the validation images",
    "test": "score a checkpoint on the test images and write a report",
    "predict": "write predictions for the test images, or for your own images, to a CSV file",
    "tune": "search hyperparameters, on one machine or many",
    "export": "write a checkpoint as a verified ONNX file",
    "serve": "serve a page to draw on and a JSON API",
}
"""Each is a function in `mnist_lightning.commands` that takes its flags."""
MODULES = {"validate": "evaluation", "test": "evaluation"}  # the other modules are named after their command

HELP = f"""usage: python -m mnist_lightning COMMAND [FLAGS]

{chr(10).join(f"  {name:<9} {text}" for name, text in COMMANDS.items())}

COMMAND --help explains a command; --version prints the version.
To start: python -m mnist_lightning fit
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The command and its flags; default: those in `sys.argv`.

    Raises:
        SystemExit: Status 2 and one line for bad input; 130 or 143 after Ctrl-C or SIGTERM.
    """
    command, *flags = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP, end="")
    elif command == "--version":
        print(f"mnist_lightning {version('mnist_lightning')}")
    else:
        try:
            if command not in COMMANDS:
                similar = did_you_mean(command, COMMANDS)
                raise UserError(f"unknown command {command!r}; choose one of {', '.join(COMMANDS)}{similar}")
            if wanted := {"-h", "--help", "--help-all"} & {*flags}:
                from mnist_lightning.commands import help as pages

                print(pages.page(command), *([pages.all_flags()] if "--help-all" in wanted else []), sep="\n", end="")
                return
            module = importlib.import_module(f"mnist_lightning.commands.{MODULES.get(command, command)}")
            getattr(module, command)(flags)
        except UserError as error:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a run hits the same error
                print(f"error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            raise SystemExit(128 + (error.args[0] if error.args else signal.SIGINT)) from None


if __name__ == "__main__":
    main()
