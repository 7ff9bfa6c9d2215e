"""`fit`, from its flags to its run folder, on a tiny dataset."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.__main__ import main
from mnist_lightning.training.saving import BestCheckpoint
from tests.conftest import BEST, MLP, RUN, SMALL, read_csv


def events(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir)).Reload()


def test_fit_fills_the_run_folder(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    run = RUN
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3"])
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith((".", "events"))) == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "figures",
        "hparams.yaml",
        "metrics.csv",
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    rows = read_csv(run / "metrics.csv")
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate"):
        assert [row["epoch"] for row in rows if row[metric]] == ["0", "1", "2"]
    assert [row["step"] for row in rows] == ["5", "11", "17"]
    best = max(rows, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    result = f"validation accuracy {float(best['val/accuracy']):.2%}, loss {float(best['val/loss']):.4f}"
    output = capsys.readouterr().out
    assert "MLP with 19,090 parameters on Tiny: 360 training and 40 validation images" in output
    assert f"best epoch  {int(best['epoch']) + 1} of 3: {result}" in output
    assert f"run folder  {run}" in output
    assert f"next        python -m mnist_lightning test --ckpt_path {BEST}\n" in output
    assert "tensorboard --logdir lightning_logs" in output


def test_best_checkpoint_is_that_of_the_best_epoch(run: Path) -> None:
    rows = read_csv(run / "metrics.csv")
    best = max(rows, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    assert torch.load(BEST, weights_only=True)["epoch"] == int(best["epoch"])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2


def test_last_checkpoint_is_that_of_the_last_epoch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BestCheckpoint, "check_monitor_top_k", lambda self, *args: not self.best_model_path)
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "4"])
    assert sorted(path.name for path in BEST.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    epochs = [torch.load(BEST.with_name(name), weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")]
    assert epochs == [0, 3]


def test_tensorboard_shows_scores_matrices_and_hyper_parameters(run: Path) -> None:
    accumulator, rows = events(run), read_csv(run / "metrics.csv")
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate"):
        logged = accumulator.Scalars(metric)
        assert [event.step for event in logged] == [int(row["step"]) for row in rows]
        assert [event.value for event in logged] == pytest.approx([float(row[metric]) for row in rows])
    assert not {"hp_metric", "epoch"} & set(accumulator.Tags()["scalars"])
    assert [image.step for image in accumulator.Images("val/confusion_matrix")] == [5, 11, 17]
    best = max(float(row["val/accuracy"]) for row in rows)
    assert [event.value for event in accumulator.Scalars("best/val_accuracy")] == pytest.approx([best])
    assert "_hparams_/session_start_info" in accumulator.summary_metadata


def test_config_yaml_reproduces_a_run(run: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml")])
    first, second = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (run, Path("lightning_logs/version_1"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_augmented_run_is_reproducible_and_records_its_augmentation(run: Path) -> None:
    flags = ["fit", *SMALL, *MLP, "--trainer.max_epochs", "2", "--data.augmentation.rotation", "10"]
    weights = []
    for number in (1, 2):
        main([*flags, "--data.augmentation.noise", "0.1"])
        stored = torch.load(f"lightning_logs/version_{number}/checkpoints/last.ckpt", weights_only=True)
        assert stored["datamodule_hyper_parameters"]["augmentation"]["rotation"] == 10
        weights.append(stored["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    main(flags)
    other = torch.load("lightning_logs/version_3/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(weights[0]["network.1.weight"], other["network.1.weight"])
    scores = []
    for degrees in ("0", "90"):
        main(["test", "--data.augmentation.rotation", degrees])
        scores.append(Path("lightning_logs/version_3/test/metrics.json").read_text())
    assert scores[0] == scores[1]  # test images are not augmented


def test_seed_decides_the_weights(run: Path) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3", "--seed_everything", "1"])
    first, second = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        for path in (run, Path("lightning_logs/version_1"))
    )
    assert [stored["datamodule_hyper_parameters"]["seed"] for stored in (first, second)] == [0, 1]
    assert not torch.equal(first["state_dict"]["network.1.weight"], second["state_dict"]["network.1.weight"])


def test_averaged_weights_are_validated_and_saved(tiny: Path) -> None:
    Path("ema.yaml").write_text(
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}]}"
    )
    main(["fit", *SMALL, *MLP, "--config", "ema.yaml", "--trainer.max_epochs", "2"])
    last = BEST.with_name("last.ckpt")
    stored = torch.load(last, weights_only=True)
    averaged, current = stored["state_dict"], stored["current_model_state"]
    assert not torch.equal(averaged["network.1.weight"], current["network.1.weight"])
    assert torch.equal(averaged["temperature"], current["temperature"])
    main(["validate", "--ckpt_path", str(last)])
    report = (RUN / "val" / "metrics.json").read_text()
    assert f'"loss": {float(read_csv(RUN / "metrics.csv")[-1]["val/loss"]):.4f}'[:14] in report


def test_epoch_without_validation_has_no_validation_scores(tiny: Path) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"])
    assert [row["epoch"] for row in read_csv(RUN / "metrics.csv") if row["val/loss"]] == ["1", "3"]


def test_next_command_can_be_pasted_into_a_shell(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1", "--trainer.default_root_dir", "my [b]runs[/b]"])
    path = "my [b]runs[/b]/lightning_logs/version_0/checkpoints/best.ckpt"
    assert f"next        python -m mnist_lightning test --ckpt_path '{path}'\n" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_write_one_run() -> None:
    flags = ["--model", "MLP", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = [sys.executable, "-m", "mnist_lightning", "fit", *flags, *ddp]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.count("MLP with ") == 1
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 211
    (row,) = read_csv(RUN / "metrics.csv")
    assert float(row["train/accuracy"]) > 0.8
    assert float(row["val/accuracy"]) > 0.93
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["version_0"]
