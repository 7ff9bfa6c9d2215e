"""What the user is told: lines and tables."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()


def program() -> str:
    """Returns how this program is started, for the commands that users are told: by its name or by their own script."""
    script = Path(sys.argv[0])
    is_own = script.suffix == ".py" and script.name != "__main__.py"
    return f"python {shlex.quote(str(script))}" if is_own else "python -m mnist_lightning"


def say(text: object) -> None:
    """Prints a line as it is, or a table."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)  # paths may look like markup


def scores_table(what: str, accuracy: float, loss: float, num_images: int) -> Table:
    """Returns a table of one row."""
    table = Table("", "accuracy", "loss", "images")
    table.add_row(what, f"{accuracy:.2%}", f"{loss:.4f}", f"{num_images:,}")
    return table


def classes_table(report: Mapping[str, Any], class_names: Sequence[str]) -> Table:
    """Returns a table of scikit-learn's report, a row for each class."""
    columns = ("precision", "recall", "f1-score")
    table = Table("class", *columns, "images")
    for name in class_names:
        row = report[name]
        table.add_row(name, *(f"{row[column]:.2%}" for column in columns), f"{row['support']:,.0f}")
    return table
