"""The commands and the Python code on all pages work as written, and the tables are what was measured."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.serving import serve
from benchmarks.table import TABLES
from mnist_lightning.__main__ import COMMANDS, main
from mnist_lightning.commands.help import page
from mnist_lightning.tuning.space import read_space
from tests.conftest import BEST, RUN, digits, idx, put_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
HELP = "\n".join(map(page, COMMANDS))


def code(language: str, text: str) -> list[str]:
    """Returns the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


OWN_PICTURES = "docs/own_pictures.md"  # tests/commands/test_own_pictures.py runs it
LINES = [
    line
    for page, text in PAGES.items()
    if page != OWN_PICTURES
    for block in code("bash", text)
    for line in block.splitlines()
]
SHOWN = [
    *LINES,
    *re.findall(r"`(python -m [^`]*)`", README),
    *re.findall(r"^  (python -m .*)", HELP, flags=re.MULTILINE),
]
CALLS = sorted({call for line in SHOWN for call in re.findall(r"-m mnist_lightning (.*?)(?: && |$)", line)})
TRAINING = [call for call in CALLS if call.startswith("fit")]
EXPORT = "export --ckpt_path pretrained --output model.onnx"  # what the fixture `exported` does
QUICK_SEARCH = shlex.split(
    "--trials 2 --finalists 1 --seeds 1 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
    "--trainer.limit_val_batches 1"
)


def test_setup_commands_work_by_themselves() -> None:
    commands = [line for block in code("bash", README) for line in block.splitlines()]
    chains = [
        line for line in commands if line.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install")
    ]
    assert len(chains) == 3
    assert chains[1].endswith("fit --config configs/cnn.yaml && python -m mnist_lightning test")
    assert "'.[dev]' && python -m pytest -n auto" in chains[2]


def test_readme_shows_every_command() -> None:
    assert {call.split()[0] for call in CALLS} == set(COMMANDS)


@pytest.mark.parametrize("call", TRAINING)
def test_every_config_and_flag_is_accepted(call: str, capsys: pytest.CaptureFixture[str], run: Path) -> None:
    shutil.copytree(ROOT / "configs", "configs")
    with pytest.raises(SystemExit) as done:
        main([*shlex.split(call), "--print_config"])
    assert done.value.code == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("call", [call for call in CALLS if call not in {*TRAINING, EXPORT}])
def test_every_other_call_runs(call: str, run: Path, exported: Path) -> None:
    if call.startswith("serve"):
        shutil.copy(exported, "model.onnx")
        shutil.rmtree("lightning_logs")  # a new process does not know the tests' dataset
        flags = shlex.split(re.sub("--port [0-9]+", "", call))[1:]
        with serve(*flags, "--port", "0"):
            return
    put_image(Path("scans/7.png"), 7)
    shutil.copy("scans/7.png", "digit.png")
    shutil.copytree(ROOT / "configs", "configs")
    if call.startswith("tune"):
        call = re.sub("--storage postgresql.*/name", "--storage sqlite:///shared.db", call)
        main([*shlex.split(call), *QUICK_SEARCH])
    else:
        main([file for word in shlex.split(call) for file in ([str(BEST)] if "*" in word else [word])])


def test_python_code_works_as_written(exported: Path) -> None:
    shutil.copy(exported, "model.onnx")
    blocks = code("python", README)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})


def test_space_is_read_as_written() -> None:
    (block,) = code("yaml", PAGES["docs/tuning.md"])
    Path("space.yaml").write_text(block)
    assert len(read_space(Path("space.yaml"))) == len(yaml.safe_load(block))


@pytest.mark.slow
def test_own_dataset_and_model_work_as_written(tmp_path: Path) -> None:
    text = PAGES["docs/datasets.md"]
    (block,) = code("python", text)
    (tmp_path / "mine.py").write_text(block)
    raw_dir = tmp_path / "data" / "Mine" / "raw"
    raw_dir.mkdir(parents=True)
    for split, num_images in (("train", 200), ("test", 40)):
        for kind, array in zip(("images", "labels"), digits(num_images, num_classes=2), strict=True):
            (raw_dir / f"{split}-{kind}").write_bytes(idx(array))
    fit, test = (shlex.split(call)[1:] for call in re.findall(r"`python (mine.py [^`]*)`", text.replace("\n", " ")))
    for call in ([*fit, "--trainer.max_epochs", "1"], test):
        subprocess.run([sys.executable, "mine.py", *call], check=True)
    metrics = json.loads((tmp_path / RUN / "test" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"]) == ("Mine", 40)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_existing_files_and_headings(page: str) -> None:
    for target, _, heading in re.findall(r"\]\(([^)#:]+)(#([^)]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings], heading


@pytest.mark.parametrize("page", TABLES)
def test_tables_match_the_results(page: str) -> None:
    for table in TABLES[page]:
        assert table() in PAGES[page]
