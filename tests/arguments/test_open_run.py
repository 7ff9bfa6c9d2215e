"""A run folder records what is trained, and a full disk leaves nothing half-written."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from mnist_lightning.__main__ import main
from mnist_lightning.arguments.cli import CLI
from tests.conftest import MLP, RUN, SMALL, line_of

LAST = RUN / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("num_writes", [12, 0], ids=["in training", "from the start"])
def test_full_disk_is_reported(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], num_writes: int
) -> None:
    fsync, count = os.fsync, 0

    def full_after_a_while(descriptor: int) -> None:
        nonlocal count
        count += LAST.exists() or not num_writes
        if count > num_writes:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_after_a_while)
        line = line_of(["fit", *SMALL, *MLP, "--trainer.max_epochs", "9"], capsys)
    assert "can't be written (No space left on device); free some space" in line
    if not num_writes:
        assert not RUN.exists()
        return
    assert torch.load(LAST, weights_only=True)["epoch"] < 8
    assert sorted(path.name for path in LAST.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_environment_records_what_a_run_depends_on(run: Path) -> None:
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["seed"] == 0
    assert start["threads"] == torch.get_num_threads()
    assert start["flushes_denormals"] == torch.set_flush_denormal(True)
    assert start["versions"]["torch"] == version("torch")
    assert (start["device"], start["processes"]) == ("cpu", 1)
    assert start["command"] == ["mnist_lightning"]


def test_denormal_numbers_are_flushed_where_that_is_recorded(tiny: Path) -> None:
    torch.set_flush_denormal(False)
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    assert smallest / 2 > 0
    cli = CLI("fit", [*SMALL, *MLP])
    assert bool(smallest / 2 == 0) == cli.flushes_denormals


@pytest.mark.parametrize(
    ("capabilities", "flags", "precision", "note"),
    [
        ({"avx512_bf16": True}, [], "bf16-mixed", "bf16-mixed, which is faster on this processor; --trainer.precision"),
        ({"amx_bf16": True}, ["--trainer.precision", "32-true"], "32-true", ""),
        ({"avx2": True}, [], "32-true", ""),
        ({"avx512_bf16": True}, ["--trainer.gradient_clip_val", "1"], "32-true", ""),
        ({"avx2": True}, ["--trainer.precision", "bf16-mixed"], "bf16-mixed", "bf16-mixed, which is slow on this"),
    ],
)
def test_a_new_run_uses_bfloat16_where_the_processor_is_fast_at_it_and_keeps_it(
    capabilities: dict[str, bool],
    flags: list[str],
    precision: str,
    note: str,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    main(["fit", *SMALL, *MLP, *flags])
    assert (f"precision   {note}" in capsys.readouterr().out) == bool(note)
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"] == precision
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "5"])
    is_slow = precision == "bf16-mixed"
    assert ("bf16-mixed, which is slow on this processor; but a resumed" in capsys.readouterr().out) == is_slow
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["precision"] == precision
