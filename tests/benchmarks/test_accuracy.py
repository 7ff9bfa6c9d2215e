"""The programs behind the published accuracies: what they compute, what they share, and what they never evaluate."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, robustness
from mnist_lightning.__main__ import main
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.sources import SUSPECTED_LABEL_ERRORS
from mnist_lightning.runs.folders import PRETRAINED

ROOT = Path(__file__).parents[2]


def test_scores_are_exact_with_and_without_suspected_label_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (10_000,), generator=generator)
    noise = torch.randn(10_000, 10, generator=generator)
    probabilities = (5 * torch.nn.functional.one_hot(labels) + noise).double().softmax(1)
    probabilities[947] = 0.01
    probabilities[947, (labels[947] + 1) % 10] = 0.91
    found = accuracy.score(probabilities, labels)
    wrong = (probabilities.argmax(1) != labels).nonzero().squeeze(1).tolist()
    assert found["wrong"] == wrong
    assert found["test accuracy"] == pytest.approx(1 - len(wrong) / 10_000)
    assert found["test loss"] == pytest.approx(-probabilities[range(10_000), labels].log().mean().item(), rel=1e-4)
    assert found["error without suspected label errors"] == len(set(wrong) - set(SUSPECTED_LABEL_ERRORS)) / 9985
    assert 947 in wrong


@pytest.mark.slow
def test_run_is_claimed_once(tmp_path: Path) -> None:
    with accuracy.claim(tmp_path) as first:
        assert first
        other = "import sys; from pathlib import Path; from benchmarks.accuracy import claim\n"
        other += "with claim(Path(sys.argv[1])) as is_mine: print(is_mine)"
        command = [sys.executable, "-c", other, str(tmp_path)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
    with accuracy.claim(tmp_path) as again:
        assert again


@pytest.mark.slow
def test_runs_are_skipped_when_done_and_chosen_without_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(ROOT / "configs" / "mlp.yaml")
    places = ["--runs_dir", str(tmp_path / "runs"), "--results_dir", str(tmp_path / "results"), "--seeds", "0", "1"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "5"]
    command = ["accuracy", config, *places, *short]
    monkeypatch.setattr("sys.argv", [*command, "--validation_only"])
    accuracy.main()
    paths = sorted((tmp_path / "results").iterdir())
    assert [path.name for path in paths] == ["mlp-0.json", "mlp-1.json"]
    runs = [json.loads(path.read_text()) for path in paths]
    assert all("val accuracy" in run and not any(name.startswith("test") for name in run) for run in runs)
    assert runs[0]["val loss"] != runs[1]["val loss"]
    paths[1].unlink()
    monkeypatch.setattr("sys.argv", [*command, "--ensemble"])
    accuracy.main()
    again, other, ensemble = (json.loads(path.read_text()) for path in sorted((tmp_path / "results").iterdir()))
    assert again == runs[0]
    assert other["val loss"] == runs[1]["val loss"]  # a seed repeats its run
    assert ensemble["parameters"] == 2 * other["parameters"] == 2 * 537_354
    assert "mlp_ensemble" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--shift", "1"])
    accuracy.main()
    shifted = json.loads((tmp_path / "results" / "mlp_shifted-1.json").read_text())
    assert shifted["test loss"] != other["test loss"]
    monkeypatch.setattr("sys.argv", [*command[:-4], "--seconds"])
    monkeypatch.setattr(accuracy, "fit", lambda config, folder, flags: {"1": 4.0, "3": 10.0}[flags[-1]])
    accuracy.main()
    assert json.loads((tmp_path / "results" / "mlp-seconds.json").read_text())["seconds"] == 4 + 14 * 3
    # The command `test` reports the same.
    last = accuracy.last_checkpoint(tmp_path / "runs" / "mlp" / "1")
    main(["test", "--ckpt_path", str(last), "--trainer.accelerator", "cpu"])
    metrics = json.loads((last.parent.parent / "test" / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(other["test accuracy"], abs=1e-6)
    assert metrics["loss"] == pytest.approx(other["test loss"], rel=1e-4)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr("sys.argv", [*command, "--ensemble", "--shift", "1"])
    accuracy.main()  # what is done needs no checkpoint again


@pytest.mark.parametrize("corruption", robustness.CORRUPTIONS)
def test_corruptions_change_images_and_repeat(corruption: robustness.Corruption) -> None:
    data = MNISTDataModule()
    data.setup("test")
    images = data.test_images[:200]
    changed = robustness.corrupt(images, corruption)
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    assert (changed != images).flatten(1).any(1).float().mean() > 0.8  # a spot may miss the ink
    torch.manual_seed(1)
    assert torch.equal(changed, robustness.corrupt(images, corruption))


@pytest.mark.slow
def test_pretrained_weights_reproduce_their_published_accuracy() -> None:
    assert PRETRAINED.stat().st_size < 2.5e6
    published = json.loads(PRETRAINED.with_suffix(".json").read_text())
    data = MNISTDataModule()
    data.setup("test")
    probabilities = accuracy.predict(PRETRAINED, data.test_images)
    measured = accuracy.score(probabilities, data.test_labels)
    assert measured["test accuracy"] == pytest.approx(published["test accuracy"], abs=1.5e-4)  # an image may tip over
    assert measured["test accuracy"] > 0.995
