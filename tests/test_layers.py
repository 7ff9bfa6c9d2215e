"""A file imports only from lower floors."""

import ast
from pathlib import Path

import pytest

import mnist_lightning

FLOORS = [
    {"errors", "files", "images", "metrics", "augment", "figures", "exported", "downloads", "workers"},
    {"watch", "runs", "sources", "models", "reports", "server", "recipes", "space"},
    {"checkpoints", "findings", "trials"},
    {"data", "callbacks", "ensemble", "export"},
    {"arguments"},
    {"tuning"},
    {"cli"},
    {"serving"},
    {"__main__"},
]
PACKAGE = Path(mnist_lightning.__file__).parent
FOLDERS = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]  # each counts as one module
MODULES = sorted([path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"] + FOLDERS)


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


def floor(module: str) -> int:
    (number,) = [number for number, modules in enumerate(FLOORS) if module in modules]
    return number


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert all(floor(sibling) < floor(module) for sibling in siblings(module))


def test_every_module_has_a_floor() -> None:
    assert sorted(set().union(*FLOORS)) == MODULES
