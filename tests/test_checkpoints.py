"""Checkpoints are read without trust, and the best one is kept."""

import pickle
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from lightning.pytorch import Trainer

from mnist_lightning import checkpoints
from mnist_lightning.checkpoints import BestCheckpoint, DurableIO
from mnist_lightning.runs import NEXT_STEP


class Malice:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["text", "empty", "torn", "pickle"])
def test_what_is_not_a_checkpoint_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    content = path.read_bytes()
    contents = {"text": b"hello\n", "empty": b"", "torn": content[: len(content) // 2]}
    path.write_bytes(contents.get(kind, pickle.dumps(Malice(), protocol=2)))
    with pytest.raises(ValueError) as error:
        checkpoints.read(path)
    assert str(error.value) == f"checkpoint {path} is damaged, or not a checkpoint at all; {NEXT_STEP}"
    assert not Path("harm").exists()


def test_code_in_a_checkpoint_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"class_names": Malice()}}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError) as error:
        checkpoints.read(tmp_path / "bad.ckpt")
    assert str(error.value).startswith(f"checkpoint {tmp_path / 'bad.ckpt'} would run builtins.getattr, pathlib.Path")
    assert str(error.value).endswith(f"when it is loaded, and was not loaded; {NEXT_STEP}")
    assert not Path("harm").exists()
    with pytest.raises(ValueError, match="would run"):
        DurableIO().load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)
    assert not Path("harm").exists()


def test_no_flipped_bit_changes_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    content = {"state_dict": {"weight": torch.arange(100.0)}, "epoch": 3, "recipe": "trainer:\n  max_epochs: 5\n"}
    DurableIO().save_checkpoint(content, path)
    whole = path.read_bytes()
    told = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        try:
            found = DurableIO().load_checkpoint(path)
        except ValueError as error:
            assert "is damaged" in str(error)
            told += 1
        else:  # between the files of the archive, where nothing is kept
            assert torch.equal(found["state_dict"]["weight"], content["state_dict"]["weight"])  # type: ignore[index]
            assert {name: found[name] for name in ("epoch", "recipe")} == {"epoch": 3, "recipe": content["recipe"]}
    assert told > len(whole) / 7 / 3


def test_the_earlier_checkpoint_stays_when_a_later_one_can_t_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    DurableIO().save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr("os.fsync", MagicMock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError) as error:
        DurableIO().save_checkpoint({"epoch": 2}, path)
    assert str(error.value) == (
        f"checkpoint {path} can't be written (No space left on device); free some space; the one before it is whole"
    )
    assert DurableIO().load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2]])
def test_other_programs_checkpoints_are_told(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError) as error:
        checkpoints.read(tmp_path / "other.ckpt")
    assert str(error.value) == f"checkpoint {tmp_path / 'other.ckpt'} was not written by mnist_lightning; {NEXT_STEP}"


def test_the_best_epoch_has_the_highest_accuracy_and_then_the_lowest_loss() -> None:
    epochs = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.85), (0.6, 0.1)]
    best, trainer = BestCheckpoint(), Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    kept = []
    for accuracy, loss in epochs:
        score = torch.tensor(accuracy)
        trainer.callback_metrics.update({"val/accuracy": score, "val/loss": torch.tensor(loss)})
        kept.append(best.check_monitor_top_k(trainer, score))
        if kept[-1]:
            best.best_model_score, best.best_k_models = score, {"best.ckpt": score}
            best.kth_best_model_path = "best.ckpt"
        restored = BestCheckpoint()
        restored.load_state_dict(best.state_dict())
        assert restored.best_loss == best.best_loss
    assert kept == [True, True, True, False, False]
    assert best.best_loss == pytest.approx(0.8)


def test_what_may_unpack_to_more_than_memory_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as whole, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is damaged, or not a checkpoint at all"):
        checkpoints.read(tmp_path / "b.ckpt")


@pytest.mark.parametrize("own", [None, "text", {}, {"recipe": 3}])
def test_a_checkpoint_without_a_recipe_has_none(tmp_path: Path, own: object) -> None:
    content = {name: kind() for name, kind in checkpoints.KINDS.items()}
    torch.save({**content, "callbacks": {"BestCheckpoint": own}}, tmp_path / "a.ckpt")
    found = checkpoints.read(tmp_path / "a.ckpt")
    assert (found.recipe, found.run_dir) == ("", None)


def test_a_file_in_any_folder_named_checkpoints_is_no_run_s(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "a.ckpt"
    DurableIO().save_checkpoint({name: kind() for name, kind in checkpoints.KINDS.items()}, path)
    assert checkpoints.read(path).run_dir is None
    (tmp_path / "config.yaml").touch()
    assert checkpoints.read(path).run_dir == tmp_path
