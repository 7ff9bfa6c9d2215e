"""A file imports only from files above it in the README's tree."""

import ast
import re
from pathlib import Path

import pytest

import mnist_lightning

PACKAGE = Path(mnist_lightning.__file__).parent
FOLDERS = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]  # each counts as one module
MODULES = sorted([path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"] + FOLDERS)

README = (Path(__file__).parent.parent / "README.md").read_text()
TREE = re.findall(r"^    (\w+)(?:\.py|/) ", README.split("## Layout")[1].split("configs/")[0], flags=re.MULTILINE)


def siblings(module: str) -> set[str]:
    found: set[str] = set()
    paths = (PACKAGE / module).glob("*.py") if module in FOLDERS else [PACKAGE / f"{module}.py"]
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module == "mnist_lightning":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mnist_lightning."):
            found |= {node.module.split(".")[1]} - {module}
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("mnist_lightning") for alias in node.names)
    return found


def test_the_tree_is_the_folder() -> None:
    assert sorted(TREE) == MODULES


@pytest.mark.parametrize("module", TREE)
def test_imports_go_up(module: str) -> None:
    assert siblings(module) <= set(TREE[: TREE.index(module)])
