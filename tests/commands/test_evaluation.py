"""`validate`, `test` and `predict` on checkpoints of a tiny dataset."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import projector_config_pb2

from mnist_lightning.__main__ import main
from tests.conftest import BEST, MLP, RUN, SMALL, line_of, read_csv


def test_test_needs_no_flags_and_agrees_with_predict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test"])
    main(["predict"])
    rows = read_csv(run / "predictions.csv")
    pairs = Counter((row["target"], row["prediction"]) for row in rows)
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert metrics["accuracy"] == sum(pairs[name, name] for name in "0123456789") / 100
    assert (metrics["num_images"], metrics["dataset"], metrics["checkpoint"]) == (100, "Tiny", str(BEST))
    matrix = [[int(row[name]) for name in "0123456789"] for row in read_csv(run / "test" / "confusion_matrix.csv")]
    assert matrix == [[pairs[label, name] for name in "0123456789"] for label in "0123456789"]
    assert list(rows[0]) == [
        "source",
        "prediction",
        "confidence",
        *(f"p{i}" for i in range(10)),
        "target",
        "known",
        "reason",
    ]
    assert [row["source"] for row in rows] == [f"Tiny/test/{number}" for number in range(100)]
    assert all(float(row["confidence"]) == max(float(row[f"p{i}"]) for i in range(10)) for row in rows)
    assert metrics["accuracy"] > 0.5
    output = capsys.readouterr().out
    assert f"report      {run / 'test' / 'report.html'}" in output
    low, high = metrics["accuracy_95_percent_interval"]
    interval = f"95% interval {low:.2%} to {high:.2%}"
    end = (
        f"test        accuracy {metrics['accuracy']:.2%} ({interval}), loss {metrics['loss']:.4f}, 100 images of Tiny\n"
    )
    assert end in output


def test_tensorboard_shows_the_test_at_the_step_of_the_checkpoint(run: Path) -> None:
    main(["test"])
    accumulator, step = EventAccumulator(str(run)).Reload(), torch.load(BEST, weights_only=True)["global_step"]
    (accuracy,) = accumulator.Scalars("test/accuracy")
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert (accuracy.step, accuracy.value) == (step, pytest.approx(metrics["accuracy"]))
    for name in ("confusion_matrix", "mistakes", "reliability", "risk_coverage", "first_layer", "occlusion"):
        assert [image.step for image in accumulator.Images(f"test/{name}")] == [step]


def test_projector_gets_features_labels_and_pictures(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        main(["test"])
    assert "warning" not in "".join(capfd.readouterr())
    config = projector_config_pb2.ProjectorConfig()
    text_format.Parse((run / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    vectors = (run / embedding.tensor_path).read_text().splitlines()
    assert [len(vector.split("\t")) for vector in vectors] == [24] * 100
    assert (run / embedding.metadata_path).read_text().split() == list("0123456789") * 10
    with Image.open(run / embedding.sprite.image_path) as sprite:
        assert sprite.size == (280, 280)


def test_explain_false_leaves_the_network_out_of_the_report(run: Path) -> None:
    main(["test"])
    assert 'alt="What the first layer' in (run / "test" / "report.html").read_text()
    shutil.rmtree(run / "00000")
    main(["test", "--explain", "false"])
    pictures = sorted(path.stem for path in (run / "test").glob("*.png"))
    assert pictures == ["confusion_matrix", "mistakes", "reliability", "risk_coverage"]
    assert 'alt="What the first layer' not in (run / "test" / "report.html").read_text()
    assert not (run / "00000").exists()


def test_validate_reproduces_the_scores_of_the_best_epoch(run: Path) -> None:
    assert torch.load(BEST, weights_only=True)["state_dict"]["temperature"] != 1
    main(["validate"])
    rows = read_csv(run / "metrics.csv")
    best = max(rows, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    metrics = json.loads((run / "val" / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(best["val/accuracy"]))
    assert metrics["loss"] == pytest.approx(float(best["val/loss"]), rel=1e-4)


def test_ensemble_is_tested_and_predicts(run: Path) -> None:
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
    assert metrics["accuracy"] == sum(row["target"] == row["prediction"] for row in both) / len(both)


def test_wrong_ensemble_is_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensemble = ["--model", "Ensemble", "--model.init_args.ckpt_paths"]
    assert "an Ensemble consists of trained checkpoints" in line_of(["fit", *ensemble, str(BEST)], capsys)
    assert "it takes no --ckpt_path" in line_of(["test", *ensemble, str(BEST), "--ckpt_path", "best"], capsys)
    assert "checkpoint no.ckpt is not a file" in line_of(["test", *ensemble, str(BEST), "no.ckpt"], capsys)
    assert "ckpt_paths [] is not allowed" in line_of(["test", *ensemble, "[]"], capsys)
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_pretrained_weights_need_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--ckpt_path", "pretrained", "--trainer.accelerator", "cpu"])
    assert "10,000 images of MNIST" in capsys.readouterr().out
    main(["predict", "--ckpt_path", "pretrained", "--output", "p.csv", "--trainer.accelerator", "cpu"])
    rows = read_csv(Path("p.csv"))
    assert sum(row["prediction"] == row["target"] for row in rows) > 9950


def test_checkpoint_outside_a_run_gets_a_new_run_folder(run: Path) -> None:
    BEST.rename("elsewhere.ckpt")
    main(["test", "--ckpt_path", "elsewhere.ckpt"])
    assert (Path("lightning_logs/version_1") / "test" / "metrics.json").is_file()
    assert not (run / "test").exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_all_images_are_evaluated(command: str, capsys: pytest.CaptureFixture[str], run: Path) -> None:
    stage = "val" if command == "validate" else command
    line = line_of([command, f"--trainer.limit_{stage}_batches", "0.5"], capsys)
    assert line == f"error: --trainer.limit_{stage}_batches 0.5 would leave images out; omit it\n"
    line = line_of([command, "--trainer.fast_dev_run", "true"], capsys)
    assert line == "error: --trainer.fast_dev_run True would leave images out; omit it\n"
    assert not (run / "test").exists()
    assert not (run / "predictions.csv").exists()


@pytest.mark.longest
@pytest.mark.slow
def test_one_two_or_three_processes_report_the_same() -> None:
    main(["fit", "--model", "MLP", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"])
    matrices, predictions = [], []
    for command, number in (("test", 1), ("test", 2), ("predict", 1), ("predict", 3)):
        flags = [command, "--trainer.accelerator", "cpu"]
        if number == 1:
            main(flags)
        else:
            flags += ["--trainer.devices", str(number), "--trainer.strategy", "ddp"]
            subprocess.run([sys.executable, "-m", "mnist_lightning", *flags], check=True)
        if command == "test":
            matrices.append(read_csv(RUN / "test" / "confusion_matrix.csv"))
        else:
            predictions.append(read_csv(RUN / "predictions.csv"))
    assert matrices[0] == matrices[1]
    assert predictions[0] == predictions[1]
    counted = Counter((row["target"], row["prediction"]) for row in predictions[0])
    assert counted == Counter({(row["label"], name): int(row[name]) for row in matrices[0] for name in "0123456789"})
    assert sum(counted.values()) == 10_000
    assert json.loads((RUN / "test" / "metrics.json").read_text())["accuracy"] > 0.93
