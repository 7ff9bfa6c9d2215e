"""Layers and sizes are within their limits, and the README matches."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import sizes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sizes.LIMITS)
def test_sizes_are_within_their_limits(name: str) -> None:
    assert sizes.measure()[1][name] <= sizes.LIMITS[name]


def test_layers_import_only_lower_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_readme_lists_every_package_and_the_reading_path() -> None:
    tree = README.split("## Layout")[1].split("```")[1]
    listed = re.findall(r"^    ([\w.]+)/? ", tree, flags=re.MULTILINE)
    modules = {path.stem for path in sizes.PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in sizes.PACKAGE.glob("*/__init__.py")}
    assert {name.removesuffix(".py") for name in listed} == modules | packages
    paths = re.findall(r"`mnist_lightning/(\S+\.py)`", README)
    assert [path for path in paths if path in sizes.READING_PATH] == list(sizes.READING_PATH)
