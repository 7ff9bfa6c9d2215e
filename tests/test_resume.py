"""A run that was cut off goes on as if nothing had happened; whatever its checkpoint says, nothing else does."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml

from benchmarks.kills import EMA, differences
from mnist_lightning.__main__ import main
from mnist_lightning.arguments import CLI
from mnist_lightning.callbacks import Scoreboard
from mnist_lightning.models import Classifier
from tests.conftest import BEST, MLP, RUN, SMALL, line_of, read_csv


def interrupt(recipe: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until the third epoch ends, and no further."""
    end = Classifier.on_train_epoch_end

    def fail_in_the_third_epoch(model: Classifier) -> None:
        if model.current_epoch == 2:
            raise RuntimeError("power cut")
        end(model)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Classifier, "on_train_epoch_end", fail_in_the_third_epoch)
        main(recipe)


RANDOM = ["--data.augmentation.rotation=10", "--data.augmentation.noise=0.1"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model=CNN", "--model.init_args.dropout=0.2"],
        [*MLP, f"--trainer.callbacks={EMA}"],
        [*MLP, "--data.num_workers=1"],
        [*MLP, "--trainer.max_steps=20"],  # six of which are an epoch
        [*MLP, "--trainer.check_val_every_n_epoch=2"],
        [*MLP, "--trainer.val_check_interval=0.4"],
        [*MLP, "--trainer.limit_train_batches=5", "--trainer.val_check_interval=0.5"],  # the last but one is validated
        [*MLP, "--trainer.accumulate_grad_batches=2"],
        [
            *(*MLP, "--trainer.limit_train_batches=5"),
            *("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"),
        ],
        [*MLP, "--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=4"],
        [*MLP, "--trainer.max_steps=24", "--trainer.max_epochs=null"],
        [*MLP, "--trainer.logger=false"],
    ],
    ids=lambda flags: " ".join(flag.removeprefix("--trainer.") for flag in flags[1:] if "=" in flag)[:60],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    recipe = ["fit", *SMALL, *RANDOM, "--trainer.max_epochs", "4", "--seed_everything", "5", *flags]
    main(recipe)
    interrupt(recipe, monkeypatch)
    torch.manual_seed(99)  # what a new process begins with
    main(["fit", "--ckpt_path", "last"])
    whole, resumed = Path("lightning_logs/version_0"), Path("lightning_logs/version_1")
    assert f"goes on from {resumed}/checkpoints/last.ckpt, after 2 epochs" in capsys.readouterr().out
    assert not Path("lightning_logs/version_2").exists()
    assert len(read_csv(whole / "metrics.csv")) == 4
    assert differences(whole, resumed) == []


STOP = "[{class_path: EarlyStopping, init_args: {monitor: train/loss, min_delta: 9, patience: 1}}]"


@pytest.mark.parametrize(
    ("flags", "num_epochs"), [([], 3), ([f"--trainer.callbacks={STOP}"], 2), (["--trainer.max_steps=9"], 2)]
)
def test_a_run_that_ended_after_its_last_checkpoint_is_finished_and_no_more(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], num_epochs: int
) -> None:
    recipe = ["fit", *SMALL, *MLP, *RANDOM, "--trainer.max_epochs", "3", *flags]
    main(recipe)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Scoreboard, "on_fit_end", MagicMock(side_effect=RuntimeError("power cut")))
        main(recipe)
    whole, resumed = Path("lightning_logs/version_0"), Path("lightning_logs/version_1")
    assert "events" in differences(whole, resumed)
    main(["fit", "--ckpt_path", "last"])
    assert len(read_csv(whole / "metrics.csv")) == num_epochs
    assert differences(whole, resumed) == []
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last"])
    assert "is finished; nothing is left to train" in capsys.readouterr().out


def test_a_checkpoint_plugin_of_one_s_own_takes_the_place_of_this_one(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nfrom mnist_lightning.checkpoints import DurableIO\n"
        "class Mine(DurableIO):\n    def save_checkpoint(self, *args, **kwargs):\n"
        "        Path('mine').touch()\n        super().save_checkpoint(*args, **kwargs)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1", "--trainer.plugins", "mine.Mine"])
    assert Path("mine").exists()


def test_an_epoch_without_validation_has_no_scores_of_one(tiny: Path) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"])
    assert [row["epoch"] for row in read_csv(RUN / "metrics.csv") if row["val/loss"]] == ["1", "3"]


def test_a_run_that_ended_in_its_first_epoch_goes_on_too(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ["fit", *SMALL, *MLP, *RANDOM, "--trainer.max_epochs", "2"]
    main(recipe)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Classifier, "on_validation_epoch_start", MagicMock(side_effect=RuntimeError("power cut")))
        main(recipe)
    main(["fit", "--ckpt_path", "last"])
    whole, resumed = Path("lightning_logs/version_0"), Path("lightning_logs/version_1")
    assert differences(whole, resumed) == []


def test_a_damaged_last_checkpoint_is_told_and_the_best_takes_its_place(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3"], monkeypatch)
    last = RUN / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    main(["fit", "--ckpt_path", "last"])
    output = capsys.readouterr().out
    assert f"checkpoint {last} is damaged, or not a checkpoint at all; {BEST} takes its place" in output
    assert len(read_csv(RUN / "metrics.csv")) == 3


def test_a_run_that_was_cut_off_before_its_first_checkpoint_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Scoreboard, "on_fit_start", MagicMock(side_effect=RuntimeError("power cut")))
        main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "2"])
    newer = Path("lightning_logs/version_1")
    assert line_of(["fit", "--ckpt_path", "last"], capsys) == (
        f"error: {newer} has no checkpoint to go on from; start it again with --config {newer}/config.yaml, "
        "or give the file of another run's\n"
    )
    main(["test", "--ckpt_path", "last"])  # of the newest run that has one


def test_a_run_names_its_own_checkpoint_when_there_is_a_newer_run(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3"], monkeypatch)
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1"])
    capsys.readouterr()
    main(["fit", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt")])
    assert f"next        python -m mnist_lightning test --ckpt_path {BEST}\n" in capsys.readouterr().out
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1", "--trainer.default_root_dir", "my [b]runs[/b]"])
    path = "my [b]runs[/b]/lightning_logs/version_0/checkpoints/best.ckpt"
    assert f"next        python -m mnist_lightning test --ckpt_path '{path}'\n" in capsys.readouterr().out


def nested(depth: int) -> dict[str, Any]:
    """Returns a few objects that stand for very many."""
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return inner


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"hyper_parameters": nested(40)}, "has 2,000 hyper_parameters or more, which no model needs"),
    ({"datamodule_hyper_parameters": nested(40)}, "has 2,000 datamodule_hyper_parameters or more"),
    ({"state_dict": {3: torch.zeros(1)}}, "has weights that are none"),
    ({"state_dict": {"a": "b"}}, "has weights that are none"),
    ({"model_class": "\x1b[2Jmine.Net"}, "holds a ?[2Jmine.Net, not a CNN"),
    ({"optimizer_states": []}, "holds weights alone, so that training can't go on from it"),
    ({"lr_schedulers": None}, "holds weights alone"),
    ({"optimizer_states": 7}, "does not hold what a resumed run needs (TypeError"),
    ({"loops": {"fit_loop": 3}}, "does not hold what a resumed run needs ("),
    ({"callbacks": {"Scoreboard": {"history": 3}}}, "does not hold what a resumed run needs (TypeError"),
]


def test_a_checkpoint_of_nonsense_is_told(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(["fit", *SMALL, "--trainer.max_epochs", "3"], monkeypatch)
    stored = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    for change, told in NONSENSE:
        callbacks = {**stored["callbacks"], **change.get("callbacks", {})}
        torch.save({**stored, **change, "callbacks": callbacks}, "bad.ckpt")
        assert told in line_of(["fit", "--ckpt_path", "bad.ckpt", *SMALL], capsys)
        assert not Path("lightning_logs/version_1").exists()


def test_data_options_of_nonsense_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = torch.load(BEST, weights_only=True)
    torch.save({**stored, "datamodule_hyper_parameters": {"augmentation": 7}}, "bad.ckpt")
    assert "bad.ckpt was written by another version" in line_of(["test", "--ckpt_path", "bad.ckpt"], capsys)


def test_another_process_of_the_same_run_takes_the_first_one_s_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["test"])
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1"])  # a newer one, meanwhile
    capsys.readouterr()
    monkeypatch.setenv("MNIST_LIGHTNING_CHECKPOINT", str(BEST))
    monkeypatch.setenv("LOCAL_RANK", "1")
    cli = CLI("test", ["--ckpt_path", "best"])
    assert cli.ckpt_path == BEST
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert CLI("test", []).ckpt_path == Path("lightning_logs/version_1/checkpoints/best.ckpt")


def test_a_run_folder_is_one_process_s_at_a_time(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3"], monkeypatch)
    monkeypatch.setattr("mnist_lightning.files.fcntl.flock", MagicMock(side_effect=BlockingIOError))
    assert line_of(["fit", "--ckpt_path", "last"], capsys) == (
        f"error: {RUN} is being trained by another process; wait for it, or end it\n"
    )


def test_a_resumed_run_keeps_its_settings(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(["fit", *SMALL, "--trainer.max_epochs", "3"], monkeypatch)
    path = RUN / "checkpoints" / "last.ckpt"
    for flag, name, then, now in (
        ("--trainer.max_epochs", "trainer.max_epochs", "3", "9"),
        ("--model.init_args.learning_rate", "model.init_args.learning_rate", "0.01", "0.5"),
        ("--data.split_seed", "data.split_seed", "0", "9"),
        ("--seed_everything", "seed_everything", "0", "1"),
    ):
        assert line_of(["fit", "--ckpt_path", "last", flag, now], capsys) == (
            f"error: {name} is {then} in {path}, not {now}, and a resumed run keeps its settings; "
            "leave the flag out, or train a new model without --ckpt_path\n"
        )
    assert not Path("lightning_logs/version_1").exists()


def test_a_stored_recipe_imports_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(["fit", *SMALL, "--trainer.max_epochs", "3"], monkeypatch)
    (tmp_path / "malice.py").write_text(
        "from pathlib import Path\nfrom lightning.pytorch import Callback\nPath('harm').touch()\n"
        "class Malice(Callback): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    state = stored["callbacks"]["BestCheckpoint"]
    recipe = yaml.safe_load(state["recipe"])
    recipe["trainer"] |= {"callbacks": [{"class_path": "malice.Malice"}], "profiler": "malice.Malice"}
    torch.save({**stored, "callbacks": {"BestCheckpoint": {**state, "recipe": yaml.safe_dump(recipe)}}}, "bad.ckpt")
    assert line_of(["fit", "--ckpt_path", "bad.ckpt"], capsys) == (
        "error: bad.ckpt was trained with trainer.callbacks [{'class_path': 'malice.Malice'}], and nothing is imported "
        "because a file says so; give the run's own config.yaml with --config\n"
    )
    del recipe["trainer"]["callbacks"]
    recipe |= {"config": "trainer: {callbacks: [{class_path: malice.Malice}]}"}
    recipe["data"]["augmentation"] = {"class_path": "malice.Malice"}
    recipe["trainer"]["default_root_dir"] = "elsewhere"
    torch.save({**stored, "callbacks": {"BestCheckpoint": {**state, "recipe": yaml.safe_dump(recipe)}}}, "bad.ckpt")
    assert "data.augmentation.class_path is malice.Malice in bad.ckpt" in line_of(
        ["fit", "--ckpt_path", "bad.ckpt"], capsys
    )
    recipe["data"]["augmentation"] = {}
    recipe["trainer"]["profiler"] = None
    torch.save({**stored, "callbacks": {"BestCheckpoint": {**state, "recipe": yaml.safe_dump(recipe)}}}, "bad.ckpt")
    capsys.readouterr()
    main(["fit", "--ckpt_path", "bad.ckpt"])  # goes on, in a run folder where runs are
    assert Path("lightning_logs/version_1/checkpoints/last.ckpt").exists()
    assert not Path("harm").exists() and not Path("elsewhere").exists()
    main(["fit", *SMALL, "--trainer.callbacks+", "malice.Malice", "--trainer.fast_dev_run", "true"])
    assert Path("harm").exists()  # what the command line names is imported


def test_resuming_a_finished_run_does_nothing(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    main(["fit", "--ckpt_path", "last"])
    path = run / "checkpoints" / "last.ckpt"
    assert f"the run of {path} is finished; nothing is left to train" in capsys.readouterr().out
    assert not Path("lightning_logs/version_1").exists()
