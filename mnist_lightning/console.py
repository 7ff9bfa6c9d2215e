"""Console output."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

console = Console(highlight=False)  # quiet in every process of a run except the first
echo = console.out  # prints a line as it is: a path may look like markup


def program(script_path: str = "") -> list[str]:
    """Returns the command that starts this program, or that started a script: the package, or the user's own."""
    script = Path(script_path or sys.argv[0])
    is_user_script = script.suffix == ".py" and script.name != "__main__.py"
    return ["python", str(script)] if is_user_script else ["python", "-m", "mnist_lightning"]


def command_line(*args: object) -> str:
    """Returns a command line of this program, quoted for a shell."""
    return shlex.join([*program(), *map(str, args)])
