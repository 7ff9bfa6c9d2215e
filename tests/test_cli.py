"""Every command from its flags to its files, on a tiny dataset."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.__main__ import main
from mnist_lightning.checkpoints import BestCheckpoint
from tests.conftest import BEST, MLP, RUN, SMALL, line_of, put_picture, read_csv


def events(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir))
    accumulator.Reload()
    return accumulator


def test_fit_fills_the_run_folder(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    assert sorted(path.name for path in run.iterdir() if not path.name.startswith("events")) == [
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
    output = capsys.readouterr().out
    assert "MLP of 19,090 parameters on Tiny: 360 images to train, 40 to validate" in output
    assert f"run folder  {run}" in output
    assert "python -m mnist_lightning test" in output
    assert "tensorboard --logdir lightning_logs" in output


def test_the_best_checkpoint_is_that_of_the_best_epoch(run: Path) -> None:
    rows = [row for row in read_csv(run / "metrics.csv") if row["val/accuracy"]]
    best = max(rows, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    assert torch.load(BEST, weights_only=True)["epoch"] == int(best["epoch"])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2


def test_tensorboard_shows_scores_matrices_and_hyper_parameters(run: Path) -> None:
    main(["test"])
    accumulator = events(run)
    tags = accumulator.Tags()
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate", "test/accuracy"} <= set(
        tags["scalars"]
    )
    assert "hp_metric" not in tags["scalars"]
    assert len(accumulator.Images("val/confusion_matrix")) == 3
    (matrix,), (accuracy,) = accumulator.Images("test/confusion_matrix"), accumulator.Scalars("test/accuracy")
    assert matrix.step == accuracy.step == torch.load(BEST, weights_only=True)["global_step"]
    best = max(event.value for event in accumulator.Scalars("val/accuracy"))
    assert [event.value for event in accumulator.Scalars("best/val_accuracy")] == [best]
    assert "_hparams_/session_start_info" in accumulator.summary_metadata


def test_the_curves_have_the_scores_of_their_epochs(run: Path) -> None:
    (state,) = [
        state
        for state in torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"].values()
        if "history" in state
    ]
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3]
    rows = read_csv(run / "metrics.csv")
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        logged = [float(row[metric]) for row in rows if row[metric]]
        assert [row[metric] for row in state["history"]] == pytest.approx(logged)


def test_config_yaml_trains_the_same_model_again(run: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml")])
    first, second = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (run, Path("lightning_logs/version_1"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_test_needs_no_flags_and_equals_scikit_learn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test"])
    main(["predict"])
    rows = read_csv(run / "predictions.csv")
    targets, predictions = [row["target"] for row in rows], [row["prediction"] for row in rows]
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert metrics["accuracy"] == accuracy_score(targets, predictions)
    assert (metrics["num_images"], metrics["dataset"], metrics["checkpoint"]) == (100, "Tiny", str(BEST))
    matrix = [[int(row[name]) for name in "0123456789"] for row in read_csv(run / "test" / "confusion_matrix.csv")]
    assert matrix == confusion_matrix(targets, predictions).tolist()
    assert list(rows[0]) == ["source", "prediction", "confidence", *(f"p{i}" for i in range(10)), "target"]
    assert [row["source"] for row in rows] == [f"Tiny/test/{number}" for number in range(100)]
    assert all(float(row["confidence"]) == max(float(row[f"p{i}"]) for i in range(10)) for row in rows)
    assert metrics["accuracy"] > 0.5
    assert f"report      {run / 'test'}" in capsys.readouterr().out


def test_validate_gives_the_best_epochs_scores_again(run: Path) -> None:
    main(["validate"])
    scores = [float(row["val/accuracy"]) for row in read_csv(run / "metrics.csv") if row["val/accuracy"]]
    assert json.loads((run / "val" / "metrics.json").read_text())["accuracy"] == pytest.approx(max(scores))


def test_last_is_the_last_epoch_though_an_earlier_one_was_the_best(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BestCheckpoint, "check_monitor_top_k", lambda self, *args: not self.best_model_path)
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "4"])
    folder = Path("lightning_logs/version_1/checkpoints")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    epochs = [torch.load(folder / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")]
    assert epochs == [0, 3]


def test_validate_gives_the_loss_that_fit_ended_with(run: Path) -> None:
    main(["validate"])
    best = events(run).Scalars("best/val_loss")[-1].value
    assert json.loads((run / "val" / "metrics.json").read_text())["loss"] == pytest.approx(best, rel=1e-4)
    assert torch.load(BEST, weights_only=True)["state_dict"]["temperature"] != 1


def test_an_augmented_run_repeats_itself_and_remembers_how(run: Path) -> None:
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
    assert scores[0] == scores[1]  # since test images stay as they are


def test_averaged_weights_are_validated_and_kept(run: Path) -> None:
    Path("ema.yaml").write_text(
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}]}"
    )
    flags = ["fit", *SMALL, *MLP, "--config", "ema.yaml", "--trainer.max_epochs", "2"]
    main(flags)
    last = Path("lightning_logs/version_1/checkpoints/last.ckpt")
    stored = torch.load(last, weights_only=True)
    assert not torch.equal(stored["state_dict"]["network.1.weight"], stored["current_model_state"]["network.1.weight"])
    (score,) = [row["val/accuracy"] for row in read_csv(last.parent.parent / "metrics.csv") if row["epoch"] == "1"][:1]
    main(["validate", "--ckpt_path", str(last)])
    assert json.loads((last.parent.parent / "val/metrics.json").read_text())["accuracy"] == pytest.approx(float(score))


def test_an_ensemble_is_tested_and_predicts(run: Path) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "2", "--seed_everything", "1"])
    paths = [str(BEST), "lightning_logs/version_1/checkpoints/last.ckpt"]
    ensemble = ["--model", "Ensemble", "--model.init_args.ckpt_paths", *paths]
    main(["test", *ensemble])
    metrics = json.loads(Path("lightning_logs/version_2/test/metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"], metrics["checkpoint"]) == ("Tiny", 100, ", ".join(paths))
    for number, path in enumerate(paths):
        main(["predict", "--ckpt_path", path, "--output", f"{number}.csv"])
    main(["predict", *ensemble, "--output", "both.csv"])
    first, second, both = (read_csv(Path(name)) for name in ("0.csv", "1.csv", "both.csv"))
    for one, other, mean in zip(first, second, both, strict=True):
        assert float(mean["p3"]) == pytest.approx((float(one["p3"]) + float(other["p3"])) / 2, abs=2e-6)
    assert metrics["accuracy"] == accuracy_score([row["target"] for row in both], [row["prediction"] for row in both])


def test_a_wrong_ensemble_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensemble = ["--model", "Ensemble", "--model.init_args.ckpt_paths"]
    assert "an Ensemble is made of trained checkpoints" in line_of(["fit", *ensemble, str(BEST)], capsys)
    assert "leave out --ckpt_path" in line_of(["test", *ensemble, str(BEST), "--ckpt_path", "best"], capsys)
    assert "checkpoint no.ckpt is not a file" in line_of(["test", *ensemble, str(BEST), "no.ckpt"], capsys)
    assert "ckpt_paths is empty" in line_of(["test", *ensemble, "[]"], capsys)
    elsewhere = ["--trainer.default_root_dir", "elsewhere"]
    assert "no run in elsewhere/lightning_logs" in line_of(["test", *ensemble, "best", *elsewhere], capsys)
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]


def test_the_shipped_weights_need_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--ckpt_path", "pretrained", "--trainer.limit_test_batches", "2"])
    assert "2,000" in capsys.readouterr().out
    main(["predict", "--ckpt_path", "pretrained", "--output", "p.csv", "--trainer.accelerator", "cpu"])
    rows = read_csv(Path("p.csv"))
    assert sum(row["prediction"] == row["target"] for row in rows) > 9950
    assert "training can't go on from it" in line_of(
        ["fit", "--ckpt_path", "pretrained", "--trainer.max_epochs", "1000"], capsys
    )


def test_predict_reads_pictures_and_goes_on_after_bad_ones(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(3):
        put_picture(Path(f"scans/{label}.png"), label)
    main(["predict", "--images", "scans", "--output", "good.csv"])
    rows = read_csv(Path("good.csv"))
    assert [row["source"] for row in rows] == [f"scans/{label}.png" for label in range(3)]
    assert list(rows[0]) == ["source", "prediction", "confidence", *(f"p{i}" for i in range(10))]
    with Image.open("good_sheet.png") as sheet:
        assert sheet.size[0] > 300
    Path("scans/3.png").write_text("not a picture")
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(["predict", "--images", "scans/*.png", "--min_confidence", "1", "--digits", "many"])
    assert error.value.code == 3
    told = capsys.readouterr()
    assert "not read: scans/3.png is not a picture in PNG" in told.err
    assert "not read    1 of 4 pictures" in told.out
    rows = read_csv(run / "predictions.csv")
    assert list(rows[0])[-4:] == ["left", "top", "width", "height"]
    assert all(row["prediction"] == "" or float(row["confidence"]) == 1 for row in rows)
    assert (run / "predictions.png").is_file()


def test_nothing_is_written_when_no_picture_can_be_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("not a picture")
    with pytest.raises(SystemExit) as error:
        main(["predict", "--images", "text.png"])
    assert error.value.code == 3
    assert "any of 1 pictures; nothing is written" in capsys.readouterr().out
    assert not (run / "predictions.csv").exists()


def test_no_picture_is_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_picture(Path("scans/1_sheet.png"), 1)
    before = Path("scans/1_sheet.png").read_bytes()
    line = line_of(["predict", "--images", "scans", "--output", "scans/1.csv"], capsys)
    assert line == "error: scans/1_sheet.png is one of the --images and would be written over; give another --output\n"
    assert [path.name for path in Path("scans").iterdir()] == ["1_sheet.png"]
    assert Path("scans/1_sheet.png").read_bytes() == before


def test_pictures_that_are_not_there_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["predict", "--images", "no.png"], capsys) == (
        "error: --images no.png leads to no file; give files, folders or a pattern in quotes\n"
    )
    put_picture(Path("scans/1.png"), 1)
    assert "min_confidence 2.0 is not allowed" in line_of(
        ["predict", "--images", "scans", "--min_confidence", "2"], capsys
    )


def test_predict_writes_where_it_is_told(run: Path) -> None:
    main(["predict", "--output", "mine/p.csv", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert len(read_csv(Path("mine/p.csv"))) == 100
    assert not (run / "predictions.csv").exists()


def test_a_checkpoint_outside_a_run_gets_a_new_run_folder(run: Path) -> None:
    BEST.rename("elsewhere.ckpt")
    main(["test", "--ckpt_path", "elsewhere.ckpt"])
    assert (Path("lightning_logs/version_1") / "test" / "metrics.json").is_file()
    assert not (run / "test").exists()


def test_what_saw_only_some_images_writes_no_report(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    monkey = ["--trainer.limit_test_batches", "0.5", "--trainer.limit_predict_batches", "0.5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_lightning.data.EVALUATION_BATCH_SIZE", 10)
        main(["test", *monkey])
        main(["predict", *monkey])
    output = capsys.readouterr().out
    assert output.count("only 50 of 100 images were looked at; nothing is written") == 2
    assert not (run / "test").exists()
    assert not (run / "predictions.csv").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_needs_no_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([command, "--help"])
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert "--data.batch_size" in output
    assert "--ckpt_path" in output


@pytest.mark.slow
def test_every_process_count_gives_the_same_matrix_of_ten_thousand_and_the_same_predictions() -> None:
    def call(*args: str) -> None:
        subprocess.run([sys.executable, "-m", "mnist_lightning", *args, "--trainer.accelerator", "cpu"], check=True)

    main(["fit", "--model", "MLP", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"])
    results = []
    for number in (1, 2, 3):
        for command in ("test", "predict"):
            if number == 1:
                main([command, "--trainer.accelerator", "cpu"])
            else:
                call(command, "--trainer.devices", str(number), "--trainer.strategy", "ddp")
        matrix = (RUN / "test" / "confusion_matrix.csv").read_text()
        assert sum(int(cell) for line in matrix.splitlines()[1:] for cell in line.split(",")[1:]) == 10_000
        results.append((matrix, (RUN / "predictions.csv").read_text()))
    assert results[0] == results[1] == results[2]
    assert json.loads((RUN / "test" / "metrics.json").read_text())["accuracy"] > 0.93


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    flags = ["--model", "MLP", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    subprocess.run([sys.executable, "-m", "mnist_lightning", "fit", *flags, *ddp], check=True)
    assert torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 211
    (row,) = [row for row in read_csv(RUN / "metrics.csv") if row["train/accuracy"]]
    assert float(row["train/accuracy"]) > 0.8
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["version_0"]
    main(["test", "--trainer.accelerator", "cpu"])
    assert json.loads((RUN / "test" / "metrics.json").read_text())["accuracy"] > 0.93
