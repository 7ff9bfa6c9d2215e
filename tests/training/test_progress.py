"""The bar fits the terminal, and each epoch leaves a line."""

import re
from pathlib import Path

import pytest

from mnist_lightning.__main__ import main
from tests.conftest import MLP, SMALL


def test_each_epoch_leaves_a_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line[:9] for line in lines] == ["epoch   1", "epoch   2", "epoch   3"]
    assert ["validation accuracy" in line for line in lines] == [False, True, False]
    assert [line.endswith("best") for line in lines] == [False, True, False]
    assert max(map(len, lines)) <= 79
    assert all(re.search(r"training loss \d\.\d{4} .* \d+\.\d s", line) for line in lines)


def test_bar_fits_the_terminal(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "true"])
    main(["test", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "true"])
    output = capsys.readouterr().out
    updates = [update for line in output.split("\n") for update in line.split("\r") if "batches" in update]
    assert {update.partition(" |")[0] for update in updates} == {"epoch 1", "epoch 2", "validating", "testing"}
    assert max(len(re.sub(r"\x1b\[\w", "", update)) for update in updates) <= 60
    assert "it/s" not in output
