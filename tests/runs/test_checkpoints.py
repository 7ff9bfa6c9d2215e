"""Untrusted checkpoints are read safely, and checkpoints are written durably."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from mnist_lightning.errors import UserError
from mnist_lightning.runs import checkpoints
from mnist_lightning.runs.checkpoints import DurableIO
from mnist_lightning.runs.folders import PRETRAINED, TRAIN_ONE

CONTENT: dict[str, Any] = {
    "model_class": "mnist_lightning.models.MLP",
    "hyper_parameters": {"hidden_sizes": [24], "class_names": ["a", "b"]},
    "datamodule_hyper_parameters": {"dataset": "Tiny"},
    "state_dict": {"weight": torch.arange(100.0)},
    "epoch": 3,
    "global_step": 24,
    "optimizer_states": [{"lr": 0.1}],
}


class Malice:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def test_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    DurableIO().save_checkpoint(CONTENT, path)
    found = checkpoints.read(path)
    assert (found.path, found.model_class) == (path, "mnist_lightning.models.MLP")
    assert (found.model_options, found.data_options) == (CONTENT["hyper_parameters"], {"dataset": "Tiny"})
    assert found.class_names == ("a", "b")
    assert torch.equal(found.weights["weight"], torch.arange(100.0))
    assert (found.num_epochs, found.num_steps, found.is_resumable) == (4, 24, True)


@pytest.mark.parametrize("optimizer_states", [None, []])
def test_weights_alone_are_not_resumable(tmp_path: Path, optimizer_states: list[object] | None) -> None:
    torch.save({**CONTENT, "optimizer_states": optimizer_states}, tmp_path / "a.ckpt")
    assert not checkpoints.read(tmp_path / "a.ckpt").is_resumable
    assert not checkpoints.read(PRETRAINED).is_resumable


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "pickle", "code"])
def test_file_that_is_not_a_checkpoint_is_reported_and_runs_no_code(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(CONTENT, path)
    content = path.read_bytes()
    if kind == "code":
        torch.save({**CONTENT, "hyper_parameters": {"class_names": Malice()}}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Malice(), protocol=2))
    else:
        path.write_bytes({"text": b"hello\n", "empty": b"", "cut": content[: len(content) // 2]}[kind])
    with pytest.raises(UserError) as error:
        checkpoints.read(path)
    assert str(error.value) == f"checkpoint {path} is damaged, of another program, or needs code to load; {TRAIN_ONE}"
    assert not Path("harm").exists()


def test_best_checkpoint_is_suggested_where_the_last_one_is_damaged(tmp_path: Path) -> None:
    for name in ("best", "last"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"")
    problem = "is damaged, of another program, or needs code to load"
    for name, advice in (("last", f"try --ckpt_path {tmp_path}/best.ckpt"), ("best", TRAIN_ONE)):
        with pytest.raises(UserError) as error:
            checkpoints.read(tmp_path / f"{name}.ckpt")
        assert str(error.value) == f"checkpoint {tmp_path}/{name}.ckpt {problem}; {advice}"


def test_flipped_bit_is_reported_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    DurableIO().save_checkpoint(CONTENT, path)
    whole, expected = path.read_bytes(), checkpoints.read(path)
    num_reported = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        try:
            found = checkpoints.read(path)
        except UserError as error:
            assert "is damaged" in str(error)
            num_reported += 1
        else:  # between the files of the archive, where nothing is stored
            assert torch.equal(found.weights.pop("weight"), torch.arange(100.0))
            assert found == dataclasses.replace(expected, weights={})
    assert num_reported > len(whole) / 7 / 3


def test_previous_checkpoint_stays_when_the_next_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    DurableIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr("os.fsync", MagicMock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(UserError) as error:
        DurableIO().save_checkpoint({"epoch": 2}, path)
    assert str(error.value) == f"{path} can't be written (No space left on device); free some space"
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], {**CONTENT, "epoch": None}, {**CONTENT, "hyper_parameters": 3}]
)
def test_checkpoint_of_another_program_is_reported(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError) as error:
        checkpoints.read(tmp_path / "other.ckpt")
    problem = "is damaged, of another program, or needs code to load"
    assert str(error.value) == f"checkpoint {tmp_path / 'other.ckpt'} {problem}; {TRAIN_ONE}"


def test_only_a_folder_with_a_config_is_a_run_folder(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "a.ckpt"
    DurableIO().save_checkpoint(CONTENT, path)
    assert checkpoints.read(path).run_dir is None
    (tmp_path / "config.yaml").touch()
    assert checkpoints.read(path).run_dir == tmp_path
    path.rename(tmp_path / "a.ckpt")
    assert checkpoints.read(tmp_path / "a.ckpt").run_dir is None
