"""Layers and sizes are within their limits, and the architecture page matches."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import sizes

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("name", sizes.LIMITS)
def test_sizes_are_within_their_limits(name: str) -> None:
    assert sizes.measure()[1][name] <= sizes.LIMITS[name]


def test_layers_import_only_lower_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_architecture_lists_every_layer_and_the_reading_path() -> None:
    table = ARCHITECTURE.split("| layer |")[1].split("\n\n")[0]
    listed = re.findall(r"^\| `(\w+)` ", table, flags=re.MULTILINE)
    modules = {path.stem for path in sizes.PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in sizes.PACKAGE.glob("*/__init__.py")}
    assert set(listed) == modules | packages
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert listed == layers[::-1]
    paths = re.findall(r"`mnist_lightning/(\S+\.py)`", ARCHITECTURE)
    assert tuple(paths) == sizes.READING_PATH
