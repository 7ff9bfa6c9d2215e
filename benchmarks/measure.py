"""What all benchmarks share: alternating measurements, medians and extremes, hardware, a table and a JSON file."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS_DIR = Path(__file__).parent / "results"


def parse(description: str, repeats: int = 5, **options: Any) -> argparse.Namespace:
    """Parses a benchmark's flags: `--repeats`, `--output`, and one for each option, with the type of its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="measured rounds, after a warm-up round")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def alternate(variants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures the variants in turn, so that changes in the machine's speed affect all of them equally.

    Args:
        variants: Functions that do the work once and return the seconds it took.
        repeats: Measured rounds, after a warm-up round.

    Returns:
        The seconds of each variant, in the order of the rounds.
    """
    rounds = [{name: measure() for name, measure in variants.items()} for _ in range(repeats + 1)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in variants}


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Returns the median, the extremes and all values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": list(values)}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, Any]:
    """Summarizes the ratio of two variants, taken round by round."""
    return summarize([a / b for a, b in zip(numerator, denominator, strict=True)])


def machine() -> dict[str, Any]:
    """Describes the hardware and the versions that a result was measured with."""
    import torch

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        pairs = (line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines())
        found = {key.strip(): value.strip() for key, value in pairs}  # virtual machines often hide the name
        parts = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
        name = ", ".join([found.get("model name", name), *parts])
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("mnist_lightning", "torch", "lightning")},
    }


def report(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Path | None) -> None:
    """Prints rows as a table and writes them, with a description of the machine, as JSON.

    Args:
        name: The name of the benchmark and its file.
        rows: Results; a summary is printed as its median with its extremes.
        columns: The keys to print.
        output: The JSON file; default: `benchmarks/results/NAME.json`.
    """
    path = output or RESULTS_DIR / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), "rows": list(rows)}, indent=1) + "\n")
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=140).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "median" not in value:
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
