"""`fit`, from its flags to its run folder, on a tiny dataset."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.training.history import TrainingHistory
from tests.conftest import BEST, MLP, RUN, SMALL, line_of, read_csv


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
    monkeypatch.setattr(TrainingHistory, "best", property(lambda self: self.rows[0]))
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "4"])
    assert sorted(path.name for path in BEST.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    epochs = [torch.load(BEST.with_name(name), weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")]
    assert epochs == [0, 3]


def test_tensorboard_shows_scores_matrices_and_errors_of_each_class(run: Path) -> None:
    accumulator, rows = events(run), read_csv(run / "metrics.csv")
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate"):
        logged = accumulator.Scalars(metric)
        assert [event.step for event in logged] == [int(row["step"]) for row in rows]
        assert [event.value for event in logged] == pytest.approx([float(row[metric]) for row in rows])
    assert [image.step for image in accumulator.Images("val/confusion_matrix")] == [5, 11, 17]
    errors = [[event.value for event in accumulator.Scalars(f"val_error/{name}")] for name in "0123456789"]
    accuracies = [1 - sum(column) / 10 for column in zip(*errors, strict=True)]  # there are 4 images of each class
    assert accuracies == pytest.approx([float(row["val/accuracy"]) for row in rows], abs=1e-6)
    tags = set(accumulator.Tags()["scalars"])
    assert {tag.partition("/")[0] for tag in tags} == {"train", "val", "val_error", "learning_rate"}


def test_tensorboard_draws_training_and_validation_in_one_chart(run: Path) -> None:
    (event,) = events(run).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts.pop("error of each class") == [f"val_error/{name}" for name in "0123456789"]
    assert charts == {name: [f"train/{name}", f"val/{name}"] for name in ("loss", "accuracy")}


def test_gradient_norm_is_a_mean_over_some_steps_of_the_epoch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def record(model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        norms.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(LightningModule, "on_before_optimizer_step", record)
    main(["fit", *SMALL, *MLP, "--data.batch_size=20", "--trainer.max_epochs=2", "--trainer.precision=32-true"])
    logged = [(event.step, event.value) for event in events(RUN).Scalars("train/gradient_norm")]
    expected = [(17, (norms[0] + norms[10]) / 2), (35, (norms[18] + norms[20] + norms[30]) / 3)]
    assert logged == [(step, pytest.approx(norm, rel=1e-5)) for step, norm in expected]


def test_tensorboard_compares_runs_by_what_is_not_the_default(run: Path) -> None:
    flags = ["--data.augmentation.rotation=5", "--optimizer=SGD", "--optimizer.lr=0.1", "--seed_everything=3"]
    main(["fit", *SMALL, *MLP, *flags, "--trainer.max_epochs=1"])
    found = []
    for path in (run, Path("lightning_logs/version_1")):
        metadata = events(path).summary_metadata["_hparams_/session_start_info"]
        hparams = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
        found.append({name: getattr(value, str(value.WhichOneof("kind"))) for name, value in hparams.items()})
    best = max(float(row["val/accuracy"]) for row in read_csv(run / "metrics.csv"))
    first = {"model": "MLP", "epochs": 3, "batch_size": 60, "learning_rate": 0.01, "seed": 0, "dropout": 0.1}
    first |= {"optimizer": "AdamW", "dataset": "Tiny", "hidden_sizes": "[24]", "best val/accuracy": pytest.approx(best)}
    assert found[0] == first
    second = {
        "epochs": 1,
        "seed": 3,
        "rotation": 5,
        "optimizer": "SGD",
        "best val/accuracy": found[1]["best val/accuracy"],
    }
    assert found[1] == {**first, **second}


def test_first_batch_is_drawn_once_and_only_if_asked(run: Path) -> None:
    assert [image.step for image in events(run).Images("train/batch")] == [0]
    drawn = (run / "figures" / "batch.png").read_bytes()
    (run / "figures" / "batch.png").unlink()
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "4"])
    assert not (run / "figures" / "batch.png").exists()
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs=1", "--data.augmentation.rotation=40"])
    assert Path("lightning_logs/version_1/figures/batch.png").read_bytes() != drawn
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs=1", "--explain=false"])
    assert [path.name for path in Path("lightning_logs/version_2/figures").iterdir()] == ["curves.png"]


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
    loss = json.loads((RUN / "val" / "metrics.json").read_text())["loss"]
    assert loss == pytest.approx(float(read_csv(RUN / "metrics.csv")[-1]["val/loss"]), abs=1e-5)


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


def test_optimizer_and_schedule_can_be_chosen(tiny: Path) -> None:
    sgd = ["--optimizer", "SGD", "--optimizer.lr", "0.5", "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"]
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "3", *sgd])
    assert [float(row["learning_rate"]) for row in read_csv(RUN / "metrics.csv")] == pytest.approx(
        [0.05, 0.005, 0.0005]
    )
    stored = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    (group,) = stored["optimizer_states"][0]["param_groups"]
    assert "betas" not in group
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "2", *sgd[4:]])  # AdamW, with its groups and the default rate
    rows = read_csv(Path("lightning_logs/version_1/metrics.csv"))
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.001, 0.0001])
    stored = torch.load("lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)
    decays = [group["weight_decay"] for group in stored["optimizer_states"][0]["param_groups"]]
    assert decays == [0.01, 0.0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer", "Adamm"], "did you mean Adam?"),
        (["--lr_scheduler", "StepRL"], "did you mean StepLR?"),
        (
            ["--optimizer", "SGD", "--optimizer.lr", "-1"],
            "--optimizer or --lr_scheduler can't be used: Invalid learning",
        ),
        (["--lr_scheduler", "StepLR"], "step_size"),
    ],
)
def test_wrong_optimizer_is_reported(
    tiny: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in line_of(["fit", *SMALL, *flags], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-true", "64-true"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_training_with_clipping_works_at_every_precision(tiny: Path, precision: str, algorithm: str) -> None:
    clip = ["--trainer.gradient_clip_val", "0.5", "--trainer.gradient_clip_algorithm", algorithm]
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1", "--trainer.precision", precision, *clip])
    assert float(read_csv(RUN / "metrics.csv")[0]["train/loss"]) < 3


def test_run_starts_from_other_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["fit", *SMALL, "--trainer.max_epochs", "1", "--model.init_args.learning_rate", "1e-9"]
    main([*flags, "--init_from", "best"])
    output = capsys.readouterr().out
    assert f"starting    from {BEST}\n" in output
    before, after = (
        torch.load(path, weights_only=True) for path in (BEST, "lightning_logs/version_1/checkpoints/best.ckpt")
    )
    assert after["hyper_parameters"]["hidden_sizes"] == [24]
    assert after["global_step"] == 6
    for name, weight in before["state_dict"].items():
        if name.startswith("network"):
            torch.testing.assert_close(after["state_dict"][name], weight, atol=1e-5, rtol=0)
    assert yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())["init_from"] == "best"


def test_last_layer_is_new_for_other_classes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple("abcdefghijklm")
    monkeypatch.setitem(sources.SOURCES, "Tiny", dataclasses.replace(sources.SOURCES["Tiny"], class_names=names))
    frozen = ["--model.init_args.freeze", "true", "--trainer.max_epochs", "2"]
    main(["fit", *SMALL, "--init_from", str(run), *frozen])
    assert f"starting    from {BEST}, with a new last layer for 13 other classes\n" in capsys.readouterr().out
    before, after = (
        torch.load(path, weights_only=True) for path in (BEST, "lightning_logs/version_1/checkpoints/last.ckpt")
    )
    same = [name for name, weight in before["state_dict"].items() if torch.equal(after["state_dict"][name], weight)]
    assert [name for name in before["state_dict"] if name.startswith("network") and name not in same] == [
        "network.4.weight",
        "network.4.bias",
    ]
    assert len(after["state_dict"]["network.4.bias"]) == 13


def test_resuming_and_starting_from_weights_exclude_each_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "error: --ckpt_path resumes a run, --init_from starts one; omit one of them\n"
    assert line_of(["fit", "--ckpt_path", "last", "--init_from", "best"], capsys) == expected


def test_profilers_and_callbacks_are_heard(tiny: Path, caplog: Any) -> None:
    stop = "[{class_path: EarlyStopping, init_args: {monitor: val/loss, verbose: true}}]"
    with caplog.at_level("INFO", "lightning.pytorch"):
        main(
            [
                "fit",
                *SMALL,
                *MLP,
                "--trainer.max_epochs",
                "2",
                "--trainer.profiler",
                "simple",
                "--trainer.callbacks",
                stop,
            ]
        )
    assert "Metric val/loss improved" in caplog.text
    assert "FIT Profiler Report" in caplog.text


def test_environment_variables_are_flags(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER__MAX_EPOCHS", "2")
    main(["fit", *SMALL, *MLP])
    assert len(read_csv(RUN / "metrics.csv")) == 2
