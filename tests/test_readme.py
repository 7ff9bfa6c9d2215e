"""The README's commands work as written, and its tables are what was measured."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving import serve
from benchmarks.table import TABLES, accuracy_table
from mnist_lightning.__main__ import COMMANDS, main
from tests.conftest import RUN, digits, idx, put_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
CALLS = [
    call.split("-m mnist_lightning ")[1]
    for line in LINES
    for call in line.partition("#")[0].split(" && ")
    if "-m mnist_lightning " in call
]


def test_first_two_commands_train_and_test() -> None:
    train, test = LINES[:2]
    assert " pip install . " in train.replace("/bin/pip", "pip").replace(".venv", " ")
    assert train.endswith("python -m mnist_lightning test")
    assert "fit --config configs/cnn.yaml" in train
    assert "-m pytest" in test


QUICK_SEARCH = shlex.split("--trials 2 --seeds 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1")


def test_readme_shows_every_command() -> None:
    assert {call.split()[0] for call in CALLS} >= set(COMMANDS)


@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("fit")])
def test_every_config_and_flag_is_accepted(
    call: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    monkeypatch.chdir(ROOT) if "--config" in call else None
    with pytest.raises(SystemExit) as done:
        main([*shlex.split(call), "--print_config"])
    assert done.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("call", [call for call in CALLS if not call.startswith("fit")])
def test_every_other_call_runs(call: str, run: Path, exported: Path) -> None:
    if call.startswith("serve"):
        shutil.copy(exported, "model.onnx")
        with serve(*shlex.split(call.replace("--port 8000", "--port 0"))[1:]):
            return
    put_image(Path("scans/7.png"), 7)
    shutil.copytree(ROOT / "configs", "configs")
    main([*shlex.split(call), *(QUICK_SEARCH if call.startswith("tune") else [])])


def test_own_dataset_and_model_work_as_written(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    raw_dir = tmp_path / "data" / "Mine" / "raw"
    raw_dir.mkdir(parents=True)
    for split, num_images in (("train", 200), ("test", 40)):
        for kind, array in zip(("images", "labels"), digits(num_images, num_classes=2), strict=True):
            (raw_dir / f"{split}-{kind}").write_bytes(idx(array))
    fit, test = (shlex.split(call)[1:] for call in re.findall(r"`python (mine.py [^`]*)`", README.replace("\n", " ")))
    for call in ([*fit, "--trainer.max_epochs", "1"], test):
        subprocess.run([sys.executable, "mine.py", *call], check=True)
    metrics = json.loads((tmp_path / RUN / "test" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"]) == ("Mine", 40)


def test_tree_lists_the_configs() -> None:
    tree = README.split("## Layout")[1].split("```")[1]
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert configs <= set(re.findall(r"\w+", tree.split("configs/")[1].split("benchmarks/")[0]))


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/measurements.md"])
def test_links_lead_to_existing_files_and_headings(page: str) -> None:
    path = ROOT / page
    for target, _, heading in re.findall(r"\]\(([^)#:]+)(#([^)]+))?\)", path.read_text()):
        assert (path.parent / target).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", (path.parent / target).read_text(), flags=re.MULTILINE)
            assert heading in [text.lower().replace(" ", "-") for text in headings], heading


def test_tables_match_the_results() -> None:
    assert accuracy_table() in README
    measurements = (ROOT / "docs" / "measurements.md").read_text()
    for table in TABLES:
        assert table() in measurements
