"""Entry point: runs a command; `--help` answers without importing torch."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mnist_lightning.errors import UserError, did_you_mean, handle_sigterm, one_line, repeat_signal

COMMANDS = ("fit", "validate", "test", "predict", "tune", "export", "serve")
"""Each is a function in `mnist_lightning.commands` that takes its flags, and has a page that begins with a summary."""
MODULES = {"validate": "evaluation", "test": "evaluation"}  # the other modules are named after their command
PAGES = {name: Path(__file__).parent / "commands" / "help_pages" / f"{name}.txt" for name in COMMANDS}

HELP = f"""usage: python -m mnist_lightning COMMAND [FLAGS]

{chr(10).join(f"  {name:<9} {page.read_text(encoding='utf-8').splitlines()[0]}" for name, page in PAGES.items())}

COMMAND --help explains a command; --version prints the version.
To start: python -m mnist_lightning fit
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command, by default that of `sys.argv`; exits with status 2 for bad input, 130 or 143 after a signal."""
    if args is None:  # in a process of its own
        sys.unraisablehook = repeat_signal
    command, *flags = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP, end="")
    elif command == "--version":
        print(f"mnist_lightning {version('mnist_lightning')}")
    else:
        try:
            if command not in COMMANDS:
                choices = ", ".join(COMMANDS) + did_you_mean(command, COMMANDS)
                raise UserError(f"unknown command {command!r}; choose one of {choices}")
            if wanted := {"-h", "--help", "--help-all"} & {*flags}:
                from mnist_lightning.commands import help as pages

                print(pages.page(command), *([pages.all_flags()] if "--help-all" in wanted else []), sep="\n", end="")
                return
            ctrl_c = signal.signal(signal.SIGINT, signal.SIG_DFL)  # torch hides a KeyboardInterrupt in NumPy's import
            module = importlib.import_module(f"mnist_lightning.commands.{MODULES.get(command, command)}")
            signal.signal(signal.SIGINT, ctrl_c)
            handle_sigterm()
            getattr(module, command)(flags)
        except UserError as error:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a run hits the same error
                print(f"error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            raise SystemExit(128 + (error.args[0] if error.args else signal.SIGINT)) from None


if __name__ == "__main__":
    main()
