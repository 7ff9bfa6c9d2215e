"""A run that was interrupted and resumed ends bit-identical to one that was not."""

import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import yaml

from benchmarks.kills import EMA, differences
from mnist_lightning.__main__ import main
from mnist_lightning.models import Classifier
from mnist_lightning.training.tensorboard import TensorBoardPages
from tests.conftest import BEST, MLP, RUN, SMALL, line_of, read_csv

LAST = RUN / "checkpoints" / "last.ckpt"
RANDOM = ["--data.augmentation.rotation=10", "--data.augmentation.noise=0.1"]


def interrupt(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until the third epoch ends, and no further."""
    end = Classifier.on_train_epoch_end

    def fail_in_the_third_epoch(model: Classifier) -> None:
        if model.current_epoch == 2:
            raise RuntimeError("power cut")
        end(model)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Classifier, "on_train_epoch_end", fail_in_the_third_epoch)
        main(["fit", *flags])
    time.sleep(1)  # TensorBoard orders its files by the second, and within it by their number as text


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--model=CNN", "--model.init_args.dropout=0.2"],
        [*MLP, f"--trainer.callbacks={EMA}"],
        [*MLP, "--data.num_workers=1"],
        [*MLP, "--trainer.max_steps=20"],  # six of which are an epoch
        [*MLP, "--trainer.check_val_every_n_epoch=2"],
        [*MLP, "--trainer.val_check_interval=0.4"],
        [*MLP, "--trainer.limit_train_batches=5", "--trainer.val_check_interval=0.5"],  # not at the end of the epoch
        [*MLP, "--trainer.accumulate_grad_batches=2"],
        [
            *(*MLP, "--trainer.limit_train_batches=5"),
            *("--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=0.5"),
        ],
        [*MLP, "--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=4"],
        [*MLP, "--trainer.max_steps=24", "--trainer.max_epochs=null"],
        [*MLP, "--trainer.logger=false"],
        [*MLP, "--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=4"],
    ],
    ids=lambda flags: " ".join(flag.removeprefix("--trainer.") for flag in flags[1:] if "=" in flag)[:60],
)
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key.*")
def test_resume_is_bit_identical(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    flags = [*SMALL, *RANDOM, "--trainer.max_epochs", "4", "--seed_everything", "5", *flags]
    main(["fit", *flags])
    interrupt(flags, monkeypatch)
    torch.manual_seed(99)  # what a new process begins with
    main(["fit", "--ckpt_path", "last"])
    whole, resumed = Path("lightning_logs/version_0"), Path("lightning_logs/version_1")
    assert f"resuming    {resumed}/checkpoints/last.ckpt, completed epochs: 2" in capsys.readouterr().out
    assert not Path("lightning_logs/version_2").exists()
    assert len(read_csv(whole / "metrics.csv")) == 4
    assert differences(whole, resumed) == []


def test_run_is_trained_further_with_the_schedule_of_its_new_length(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["fit", *SMALL, *MLP]
    main([*flags, "--trainer.max_epochs", "6"])
    main([*flags, "--trainer.max_epochs", "2"])
    newer = Path("lightning_logs/version_1")
    for length in (4, 6):
        main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", str(length)])
        assert len(read_csv(newer / "metrics.csv")) == length
        assert yaml.safe_load((newer / "config.yaml").read_text())["trainer"]["max_epochs"] == length
    whole, extended = (read_csv(folder / "metrics.csv") for folder in (RUN, newer))
    rates = [[float(row["learning_rate"]) for row in rows] for rows in (whole, extended)]
    assert rates[1][1] < 1e-6 < rates[1][2]  # the first end, and what follows
    assert rates[1][4:] == pytest.approx(rates[0][4:])
    assert float(extended[-1]["val/loss"]) < float(extended[1]["val/loss"])


STOP = "[{class_path: EarlyStopping, init_args: {monitor: train/loss, min_delta: 9, patience: 1}}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "num_epochs"), [([], 3), ([f"--trainer.callbacks={STOP}"], 2), (["--trainer.max_steps=9"], 2)]
)
def test_run_killed_after_its_last_checkpoint_is_finished_without_further_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], num_epochs: int
) -> None:
    command = ["fit", *SMALL, *MLP, *RANDOM, "--trainer.max_epochs", "3", *flags]
    main(command)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(TensorBoardPages, "on_fit_end", MagicMock(side_effect=RuntimeError("power cut")))
        main(command)
    whole, resumed = Path("lightning_logs/version_0"), Path("lightning_logs/version_1")
    assert differences(whole, resumed) == ["events"]
    for _ in range(2):  # a finished run can be resumed again
        main(["fit", "--ckpt_path", "last"])
        assert len(read_csv(whole / "metrics.csv")) == num_epochs
        assert differences(whole, resumed) == []


def test_run_killed_in_its_first_epoch_must_be_restarted_with_its_config(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Classifier, "on_validation_epoch_start", MagicMock(side_effect=RuntimeError("power cut")))
        main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "2"])
    newer = Path("lightning_logs/version_1")
    assert line_of(["fit", "--ckpt_path", "last"], capsys) == (
        f"error: {newer} has no checkpoint to resume from; start it again with --config {newer}/config.yaml, "
        "or name another run's checkpoint\n"
    )
    main(["test", "--ckpt_path", "last"])  # of the newest run that has one
    main(["fit", "--config", f"{newer}/config.yaml"])
    assert len(read_csv(Path("lightning_logs/version_2/metrics.csv"))) == 2


def test_damaged_last_checkpoint_is_reported_with_the_way_out(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt([*SMALL, *MLP, "--trainer.max_epochs", "3"], monkeypatch)
    content = bytearray(LAST.read_bytes())
    content[len(content) // 2] ^= 1
    LAST.write_bytes(content)
    assert line_of(["fit", "--ckpt_path", "last"], capsys) == (
        f"error: checkpoint {LAST} is damaged, of another program, or needs code to load; try --ckpt_path {BEST}\n"
    )
    main(["fit", "--ckpt_path", str(BEST)])
    assert len(read_csv(RUN / "metrics.csv")) == 3


def test_only_one_process_trains_in_a_run_folder(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mnist_lightning.runs import folders

    interrupt([*SMALL, *MLP, "--trainer.max_epochs", "3"], monkeypatch)
    with folders.locked(RUN):
        assert line_of(["fit", "--ckpt_path", "last"], capsys) == (
            f"error: another process is training in {RUN}; wait for it, or stop it\n"
        )


def test_changed_settings_are_rejected(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt([*SMALL, "--trainer.max_epochs", "3"], monkeypatch)
    for flag, before, now in (
        ("--trainer.gradient_clip_val", "None", "1.0"),
        ("--model.init_args.learning_rate", "0.01", "0.5"),
        ("--data.split_seed", "0", "9"),
        ("--data.batch_size", "60", "50"),
        ("--seed_everything", "0", "1"),
    ):
        assert line_of(["fit", "--ckpt_path", "last", flag, now], capsys) == (
            f"error: {flag} was {before} when {LAST} was saved, but is {now} now; a resumed run keeps its settings: "
            "omit the flag, or start a new run with --init_from\n"
        )
    assert not Path("lightning_logs/version_1").exists()
    tiny.rename("elsewhere")
    main(["fit", "--ckpt_path", "last", "--data.data_dir", "elsewhere", "--trainer.enable_progress_bar", "true"])
    assert len(read_csv(RUN / "metrics.csv")) == 3


def test_checkpoint_outside_a_run_folder_needs_the_config(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt([*SMALL, "--trainer.max_epochs", "3"], monkeypatch)
    LAST.rename("elsewhere.ckpt")
    assert line_of(["fit", "--ckpt_path", "elsewhere.ckpt"], capsys) == (
        "error: checkpoint elsewhere.ckpt is not in a run folder; use --config to name the run's config\n"
    )
    resume = ["fit", "--ckpt_path", "elsewhere.ckpt", "--config", f"{RUN}/config.yaml"]
    changed = [*resume, "--model.init_args.learning_rate", "0.5"]
    assert "--model.init_args.learning_rate was 0.01 when elsewhere.ckpt was saved" in line_of(changed, capsys)
    main(resume)
    assert len(read_csv(Path("lightning_logs/version_1/metrics.csv"))) == 3
    assert yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())["ckpt_path"] is None


def test_weights_alone_cannot_be_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", f"{run}/config.yaml", "--model", "CNN", "--data.dataset", "MNIST"]
    line = line_of(["fit", "--ckpt_path", "pretrained", *config, "--model.init_args.edges_only", "true"], capsys)
    assert line.startswith("error: checkpoint ")
    stored = torch.load(LAST, weights_only=True)
    torch.save({**stored, "optimizer_states": []}, BEST)
    assert line_of(["fit", "--ckpt_path", "best"], capsys) == (
        f"error: checkpoint {BEST} holds only weights and can't be resumed; use --init_from\n"
    )
