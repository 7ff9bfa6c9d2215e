"""The notebook runs from top to bottom, and is stored with what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parent.parent / "notebooks" / "mnist_walkthrough.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Returns the kinds of output of each code cell; how output is chunked varies between runs."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [list(dict.fromkeys(output.get("name", "figure") for output in cell.outputs)) for cell in cells]


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that run notebooks
def test_the_walkthrough_runs_and_is_stored_with_its_outputs(tmp_path: Path) -> None:
    text = PATH.read_text()
    stored, fresh = (nbformat.reads(text, as_version=4) for _ in range(2))  # type: ignore[no-untyped-call]
    NotebookClient(fresh, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    assert outputs(fresh) == outputs(stored)
    assert sum("figure" in kinds for kinds in outputs(stored)) >= 7
    assert not any("stderr" in kinds for kinds in outputs(stored))
    assert list(tmp_path.iterdir()) == []
