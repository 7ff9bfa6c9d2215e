"""Every command from its flags to its files, on a tiny dataset; and every wrong flag's one line."""

import contextlib
import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.kills import EMA, differences
from mnist_lightning import sources
from mnist_lightning.__main__ import main
from mnist_lightning.arguments import CLI
from mnist_lightning.callbacks import Scoreboard
from mnist_lightning.checkpoints import BestCheckpoint
from mnist_lightning.models import Classifier
from tests.conftest import MLP, RUN, SMALL, put_picture

SEE = "see python -m mnist_lightning fit --help"
BEST = RUN / "checkpoints" / "best.ckpt"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


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
    main(["test"])  # whose images stay as they are
    main(["test", "--data.augmentation.rotation", "90"])
    scores = (json.loads(Path(f"lightning_logs/version_3/test/{name}").read_text()) for name in ("metrics.json",))
    assert next(scores)["num_images"] == 100


def test_averaged_weights_are_validated_kept_and_resumed(run: Path) -> None:
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


def test_an_ensemble_is_tested_and_predicts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_flags_win_over_what_the_checkpoint_says(tiny: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_source = sources.SOURCES["Tiny"]
    files = {**tiny_source.files, "test": tiny_source.files["train"]}
    monkeypatch.setitem(sources.SOURCES, "Other", dataclasses.replace(tiny_source, files=files))
    main(["test", "--data.dataset", "Other"])
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"]) == ("Other", 400)


def test_the_normalisation_is_the_checkpoints(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["test"])
    before = json.loads((run / "test" / "metrics.json").read_text())["loss"]
    monkeypatch.setitem(sources.SOURCES, "Tiny", dataclasses.replace(sources.SOURCES["Tiny"], mean=0.9, std=2.0))
    main(["test"])
    assert json.loads((run / "test" / "metrics.json").read_text())["loss"] == before


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


@pytest.mark.parametrize("flag", ["--config", "--data", "--trainer", "--model"])
def test_settings_of_a_group_are_looked_at_like_recipes(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [1, 1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    Path("bomb.yaml").write_text("\n".join(lines))
    for args in ([flag, "bomb.yaml"], [f"{flag}=bomb.yaml"]):
        assert "bomb.yaml has more than 20 aliases, which settings don't need" in line_of(["fit", *args], capsys)


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
    monkeypatch.setattr("mnist_lightning.runs.fcntl.flock", MagicMock(side_effect=BlockingIOError))
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


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model_class", "malice.Malice"),
        ("hyper_parameters", {"class_path": "malice.Malice"}),
        ("hyper_parameters", {"hidden_sizes": {"class_path": "malice.Malice"}}),
        ("hyper_parameters", {"class_names": {"class_path": "malice.Malice", "init_args": {}}}),
        ("datamodule_hyper_parameters", {"augmentation": {"class_path": "malice.Malice"}}),
        ("datamodule_hyper_parameters", {"dataset": "malice.Malice"}),
    ],
)
def test_a_class_that_a_checkpoint_names_is_not_imported(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    value: object,
) -> None:
    (tmp_path / "malice.py").write_text("from pathlib import Path\nPath('harm').touch()\nclass Malice: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = torch.load(BEST, weights_only=True)
    torch.save({**stored, place: {**stored[place], **value} if isinstance(value, dict) else value}, "bad.ckpt")
    assert line_of(["test", "--ckpt_path", "bad.ckpt"], capsys).startswith("error: ")
    with contextlib.suppress(SystemExit):  # a resumed run takes the data's arguments from the recipe alone
        main(["fit", "--ckpt_path", "bad.ckpt"])
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ("[" * 20_000, "recipe.yaml has more than 20 levels, which settings don't need"),
        ("a: " * 50_000, "recipe.yaml has 150,000 characters; settings have 100,000 at most"),
        (
            "a: &a [1, 1]\n" + "".join(f"{name}: [{', '.join(['*a'] * 9)}]\n" for name in "bcd"),
            "recipe.yaml has more than 20 aliases, which settings don't need",
        ),
        ("model: !!python/object/apply:os.system [touch harm]", "recipe.yaml is no YAML: could not determine a constr"),
        ("model: {class_path: os.system, init_args: {command: touch harm}}", 'Parser key "model": Import path os.syst'),
        ("trainer: {callbacks: [{class_path: os.system}]}", 'Parser key "trainer.callbacks": Import path os.system d'),
    ],
    ids=["deep", "huge", "aliases", "tag", "model", "callback"],
)
def test_a_hostile_recipe_is_told(recipe: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(recipe)
    line = line_of(["fit", "--config", "recipe.yaml"], capsys)
    assert line.startswith(f"error: {problem}")
    assert line.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.ckpt", "s3://bucket/a.ckpt", "file:///etc/passwd"])
def test_a_remote_checkpoint_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"error: checkpoint {address} is not a file" in line_of(["test", "--ckpt_path", address], capsys)


def test_resuming_a_finished_run_does_nothing(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    main(["fit", "--ckpt_path", "last"])
    path = run / "checkpoints" / "last.ckpt"
    assert f"the run of {path} is finished; nothing is left to train" in capsys.readouterr().out
    assert not Path("lightning_logs/version_1").exists()


def test_flags_win_over_recipes_wherever_they_stand(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text("trainer:\n  max_epochs: 7\n  default_root_dir: runs\n")
    for args in (["-c", "recipe.yaml"], ["--config=recipe.yaml"]):
        for flags in ([*args, "--trainer.max_epochs", "1"], ["--trainer.max_epochs", "1", *args]):
            with pytest.raises(SystemExit):
                main(["fit", *SMALL, *flags, "--print_config"])
            assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == 1
    main(["fit", *SMALL, "--config", "recipe.yaml", "--trainer.max_epochs", "1"])
    best = Path("runs/lightning_logs/version_0/checkpoints/best.ckpt")
    assert f"test --ckpt_path {best}" in capsys.readouterr().out.replace("\n", "")
    main(["test", "--config", "recipe.yaml"])
    assert (best.parent.parent / "test" / "metrics.json").is_file()


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key.*")  # five steps end before any validation
@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_steps", "5"],
        ["--trainer.check_val_every_n_epoch", "2"],
        ["--trainer.num_sanity_val_steps", "1"],
        ["--trainer.precision", "bf16-true"],
        ["--trainer.logger", "false"],
        ["--trainer.enable_checkpointing", "false"],
        ["--trainer.enable_progress_bar", "false"],
        ["--trainer.accumulate_grad_batches", "2"],
        ["--trainer.limit_train_batches", "2"],
        ["--data.num_workers", "1"],
    ],
)
def test_lightnings_own_flags_work(tiny: Path, flags: list[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs", "2", *flags])
    has_checkpoint = flags[0] != "--trainer.enable_checkpointing"
    assert (RUN / "checkpoints" / "last.ckpt").is_file() == has_checkpoint


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


@pytest.mark.parametrize("output", [".", "file/p.csv"])
def test_an_impossible_output_is_told(run: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert line_of(["predict", "--output", output], capsys) == (
        f"error: --output {output} is a folder or lies in a file; give a file to write\n"
    )


@pytest.mark.parametrize("recipe", ["trainer: 3", "trainer: [1]"])
def test_a_recipe_of_another_shape_is_told(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(recipe)
    assert line_of(["fit", "--config", "recipe.yaml"], capsys) == (
        "error: trainer, model and data in a recipe must each be a mapping of names to values\n"
    )


@pytest.mark.parametrize("recipe", ["", "[1, 2]", "model: {", "trainer:\n  nope: 1\n", "data: 3"])
def test_a_recipe_with_mistakes_gets_one_line(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(recipe)
    line = line_of(["fit", "--config", "recipe.yaml", "--data.batch_size", "0"], capsys)
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_a_recipe_of_another_class_keeps_nothing_of_the_default_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("recipe.yaml").write_text("model: MLP\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "recipe.yaml", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "mnist_lightning.models.MLP"
    assert config["model"]["init_args"]["dropout"] == 0.2


def test_a_fast_dev_run_leaves_nothing(tiny: Path) -> None:
    main(["fit", *SMALL, "--trainer.fast_dev_run", "true"])
    assert not Path("lightning_logs").exists()


def test_an_own_model_is_named_on_the_command_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n"
        "from mnist_lightning.models import Classifier\n"
        "class Linear(Classifier):\n"
        "    def __init__(self, bias: bool = True, **kwargs: float) -> None:\n"
        "        super().__init__(**kwargs)\n"
        "        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, len(self.class_names), bias))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    main(["fit", *SMALL, "--model", "own_model.Linear", "--model.init_args.bias", "false", "--trainer.max_epochs", "1"])
    main(["test"])
    monkeypatch.setattr("mnist_lightning.arguments.known_classes", lambda: {"mnist_lightning.models.CNN"})
    expected = f"error: checkpoint {BEST} holds a own_model.Linear, not a CNN; give --model own_model.Linear\n"
    assert line_of(["test"], capsys) == expected
    main(["test", "--model", "own_model.Linear"])


def line_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(args)
    assert error.value.code == 2
    return capsys.readouterr().err


TRAIN_ONE = "train one with `python -m mnist_lightning fit`"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["fit", "--nope", "3"], f"unrecognized arguments: --nope 3; {SEE}"),
        (["fit", "--config", "no.yaml"], f"Parser key \"config\": File does not exist: '{{cwd}}/no.yaml'; {SEE}"),
        (
            ["fit", "--data.dataset", "CIFAR"],
            "dataset 'CIFAR' is not known; choose one of "
            "MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits, EMNISTBalanced",
        ),
        (["fit", "--data.batch_size", "0"], "batch_size 0 is not allowed; it must be 1 or more, such as 128"),
        (
            ["fit", "--data.batch_size", "x"],
            f"Parser key \"data.batch_size\": Expected a <class 'int'>. Got value: x; {SEE}",
        ),
        (
            ["fit", "--data.validation_fraction", "1"],
            "validation_fraction 1.0 is not allowed; it must be between 0 and 1, such as 0.1",
        ),
        (
            ["fit", "--model", "RNN"],
            f'Parser key "model": Expected a dot import path string: RNN; models are MLP, CNN and Ensemble; {SEE}',
        ),
        (
            ["fit", "--model.init_args.nope", "1"],
            "Parser key \"model\": Problem with given class_path 'mnist_lightning.models.CNN': "
            f"Option 'nope' is not accepted; models are MLP, CNN and Ensemble; {SEE}",
        ),
        (
            ["fit", "--model.init_args.widths", "[1,0]"],
            "widths [1, 0] is not allowed; it must be 1 or more each, such as [16, 32, 64]",
        ),
        (
            ["fit", "--trainer.accelerator", "cpu", "--trainer.devices", "none"],
            "--trainer.accelerator cpu --trainer.devices none: `devices` selected with `CPUAccelerator` should be an "
            "int > 0; --trainer.accelerator auto takes what is there",
        ),
        (
            ["fit", "--trainer.max_epochs", "-1"],
            "--trainer.max_epochs -1 has no end, and the one-cycle schedule needs one; give 1 or more",
        ),
        (
            ["fit", "--trainer.overfit_batches", "1"],
            "--trainer.overfit_batches 1 would replace the order of images; use --trainer.limit_train_batches",
        ),
        (
            ["fit", "--trainer.limit_train_batches", "1.5"],
            "--trainer: You have passed invalid value 1.5 for limit_train_batches, "
            "it has to be in [0.0, 1.0] or an int",
        ),
        (
            ["fit", "--trainer.limit_val_batches", "0"],
            "--trainer.limit_val_batches 0 leaves nothing to do; give 1 or more",
        ),
        (["fit", "--data.batch", "3"], f"unrecognized arguments: --data.batch 3; {SEE}"),
        (
            ["fit", "--model.init_args.mean", "0.4"],
            "--model.init_args.mean is taken from the data; see the flags that begin with --data",
        ),
        (
            ["fit", "--model.init_args.learning_rate", "-1"],
            "learning_rate -1.0 is not allowed; it must be more than 0, such as 0.001",
        ),
        (
            ["fit", "--model.init_args.label_smoothing", "3"],
            "label_smoothing 3.0 is not allowed; it must be at least 0 and less than 1",
        ),
        (["fit", "--data.std", "0"], "std 0.0 is not allowed; it must be more than 0, such as 0.3"),
        (
            ["fit", "--model", "mnist_lightning.models.Classifier"],
            "Classifier has no network of its own; choose MLP, CNN or a child class of yours",
        ),
        (
            ["fit", "--data.augmentation.rotation", "-5"],
            "augmentation rotation -5.0 is not allowed; it must be 0 or more",
        ),
        (["test"], f"no run in lightning_logs has a best checkpoint; {TRAIN_ONE}"),
        (["validate", "--ckpt_path", "best"], f"no run in lightning_logs has a best checkpoint; {TRAIN_ONE}"),
        (["fit", "--ckpt_path", "last"], f"no run in lightning_logs has a last checkpoint; {TRAIN_ONE}"),
        (
            ["predict", "--ckpt_path", "no.ckpt"],
            f"checkpoint no.ckpt is not a file; give a path, best, last or pretrained, or {TRAIN_ONE}",
        ),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    args: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert line_of(args, capsys) == f"error: {line.replace('{cwd}', str(tmp_path))}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what a machine without a GPU says")
def test_a_gpu_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["fit", "--trainer.accelerator", "gpu"], capsys) == (
        "error: --trainer.accelerator gpu: No supported gpu backend found; "
        "--trainer.accelerator auto takes what is there\n"
    )


def test_a_checkpoint_of_other_classes_or_shape_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert line_of(["test", "--data.dataset", "EMNISTBalanced"], capsys) == (
        f"error: checkpoint {BEST} knows 10 classes and EMNISTBalanced has 47; "
        "choose another --data.dataset or --ckpt_path\n"
    )
    assert line_of(["test", "--model", "CNN"], capsys) == (
        f"error: checkpoint {BEST} holds a mnist_lightning.models.MLP, not a CNN; "
        "give --model mnist_lightning.models.MLP\n"
    )
    assert line_of(["test", "--model.init_args.hidden_sizes", "[3]"], capsys) == (
        f"error: checkpoint {BEST} doesn't fit the model that the flags describe (size mismatch for network.1.weight: "
        "copying a param with shape torch.Size([24, 784]) from checkpoint, the shape in current model is "
        "torch.Size([3, 784]).); leave out the flags that change its shape\n"
    )
    assert sorted(run.rglob("*")) == before


def test_a_missing_dataset_is_told_and_no_run_folder_is_made(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["fit", *SMALL, "--data.data_dir", "elsewhere"], capsys) == (
        "error: no good copy of train-images, train-labels in elsewhere/Tiny/raw; "
        "put the files there, packed or unpacked\n"
    )
    assert not Path("lightning_logs").exists()
    assert not Path("elsewhere").exists()


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
