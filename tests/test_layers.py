"""A file imports only from lower floors."""

import ast
from pathlib import Path

import pytest

import mnist_lightning

FLOORS = [
    {"errors", "files", "images", "metrics", "augment", "figures"},
    {"sources", "models", "reports", "checkpoints"},
    {"data", "callbacks", "ensemble"},
    {"arguments"},
    {"tuning"},
    {"cli"},
    {"__main__"},
]
PACKAGE = Path(mnist_lightning.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def siblings(module: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "mnist_lightning":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mnist_lightning."):
            found.add(node.module.split(".")[1])
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
