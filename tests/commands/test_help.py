"""Help: pages that fit on a screen and name what exists; suggestions for what does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_lightning.__main__ import COMMANDS, main
from mnist_lightning.commands import help as pages
from mnist_lightning.commands import serve, tune
from mnist_lightning.models import MLP
from tests.conftest import line_of

OWN = {"--config", "--print_config", "--ckpt_path", "--seed_everything", "--model", "--help-all"}
OWN |= {"--init_from", "--optimizer", "--lr_scheduler"}  # tests/commands/test_fit.py runs them
OWN |= {"--images", "--digits", "--min_confidence", "--output"}  # tests/test_readme.py runs them


@pytest.mark.parametrize("command", COMMANDS)
def test_page_fits_on_a_screen_and_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"usage: python -m mnist_lightning {command} [FLAGS]"
    assert 10 < len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith(f"  python -m mnist_lightning {command}") for line in lines) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_page_names_flags_and_defaults_that_exist(command: str) -> None:
    every = dict(re.findall(r"^  (--[\w.]+)(.*(?:\n {20,}.*)*)", pages.all_flags(), flags=re.MULTILINE))
    for flag, text in re.findall(r"^  (--[\w.-]+) (.*)", pages.page(command), flags=re.MULTILINE):
        if command == "tune":
            _, others = tune._parse(["--space", "space.yaml", flag, "5"])
            assert others in ([], ["--config=5"])
        elif command == "serve":
            serve._parse([flag, {"--url_prefix": "/digits", "--cors_origin": "*"}.get(flag, "5")])
        elif flag not in OWN:
            default = re.search(r"default: \w+(?=\))", text)
            assert default is None or re.search(f"{default[0]}[,)]", " ".join(every[flag].split())), flag


def test_help_is_quick() -> None:
    code = """
import sys
from mnist_lightning.__main__ import main
main(["fit", "--help"])
assert not {"numpy", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_all_flags_are_those_that_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    class Linear(MLP):
        """A model of the user's own.

        Args:
            bias: Whether there is one. More about it.
        """

        def __init__(self, bias: bool = True, learning_rate: float = 0.5) -> None:
            super().__init__(learning_rate=learning_rate)

    main(["fit", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "--model.init_args.bias {true,false} Whether there is one. More about it. (type: bool, default: True)" in text
    )
    assert "(type: float, default: 0.5) --model Ensemble" not in text
    assert "the others are 3x3. (type: Sequence[int], default: (16, 32, 64, 64))" in text
    assert re.search(r"--trainer.max_epochs MAX_EPOCHS Stop training once .*?default: 5\)", text)
    refused = ("--trainer.overfit_batches", "--model.init_args.class_names", "--data.seed")
    assert not [flag for flag in refused if flag in text]


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (["tets"], "test"),
        (["fit", "--trainer.max_epoch", "3"], "--trainer.max_epochs"),
        (["fit", "--data.batchsize", "3"], "--data.batch_size"),
        (["fit", "--confg", "a.yaml"], "--config"),
        (["fit", "--model", "MPL"], "MLP"),
        (["fit", "--model.init_args.width", "[3]"], "widths"),
        (["fit", "--model", "MLP", "--model.init_args.hidden_size", "[3]"], "hidden_sizes"),
        (["test", "--ckpt_path", "pretrained", "--data.dataste", "MNIST"], "--data.dataset"),
        (["predict", "--ckpt_path", "pretrained", "--image", "a.png"], "--images"),
        (["serve", "--prot", "80"], "--port"),
    ],
)
def test_similar_name_is_suggested(args: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(args, capsys).endswith(f"; did you mean {suggestion}?\n")


def test_misspelt_setting_of_a_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("model: {class_path: CNN, init_args: {widhts: [3]}}")
    assert line_of(["fit", "--config", "a.yaml"], capsys).endswith("; did you mean widths?\n")
