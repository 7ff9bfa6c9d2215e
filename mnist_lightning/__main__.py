"""The command line's door: it answers `--help` at once, and leaves heavy imports to the commands."""

import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

COMMANDS = {
    "fit": "train a classifier",
    "validate": "score a checkpoint on the validation images",
    "test": "score a checkpoint on the test images, with a report",
    "predict": "write a checkpoint's predictions for the test images, or for pictures of your own, to a CSV",
    "tune": "search hyper-parameters, on one machine or on many",
    "export": "write a checkpoint as one verified ONNX file",
    "serve": "serve a page to draw on and a JSON API",
}

HELP = f"""usage: python -m mnist_lightning COMMAND [FLAGS]

{chr(10).join(f"  {name:<9} {text}" for name, text in COMMANDS.items())}

COMMAND --help lists a command's flags; --version prints the version.
start with: python -m mnist_lightning fit
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The command and its flags; default: the command line's.

    Raises:
        SystemExit: With status 2 and one line for bad input.
    """
    command, *flags = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP, end="")
    elif command == "--version":
        print(f"mnist_lightning {version('mnist_lightning')}")
    elif command not in COMMANDS:
        print(f"error: no command {command!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    else:
        try:
            if command == "serve":
                from mnist_lightning import serving

                serving.serve(flags)
            else:
                from mnist_lightning import cli

                getattr(cli, command)(flags)
        except KeyboardInterrupt as error:
            raise SystemExit(128 + (error.args[0] if error.args else signal.SIGINT)) from None


if __name__ == "__main__":
    main()
