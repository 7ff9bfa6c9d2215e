"""Lines of each package, with limits: `python -m benchmarks.sizes`. Exit status 1 if a limit is exceeded."""

import ast
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGE = Path(__file__).parent.parent / "mnist_lightning"
READING_PATH = (
    "data/module.py",
    "models/classifier.py",
    "models/networks.py",
    "models/metrics.py",
    "training/history.py",
    "commands/fit.py",
)
"""From data to a trained and tested model, in reading order."""
LIMITS = {"all": 4500, "reading path": 800, "longest file": 250, "longest function": 40}


def measure() -> tuple[dict[str, int], dict[str, int]]:
    """Returns the lines of each package, and the sizes that have limits."""
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    lines = {name: len(text.splitlines()) for name, text in files.items()}
    packages: Counter[str] = Counter()
    for name, count in lines.items():
        packages[name.rpartition("/")[0] or "."] += count
    functions = [
        node.end_lineno - node.lineno + 1
        for text in files.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    sizes = {
        "all": sum(lines.values()),
        "reading path": sum(lines[name] for name in READING_PATH),
        "longest file": max(lines.values()),
        "longest function": max(functions),
    }
    return dict(packages), sizes


def main() -> None:
    """Prints the sizes."""
    packages, sizes = measure()
    table = Table("part", "lines", "limit")
    for name, count in packages.items():
        table.add_row(name, f"{count:,}", "")
    table.add_section()
    for name, count in sizes.items():
        table.add_row(name, f"{count:,}", f"{LIMITS[name]:,}")
    Console().print(table)
    if any(sizes[name] > limit for name, limit in LIMITS.items()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
