"""The fast path trains the same model as the plain one, and the benchmarks run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from benchmarks import epoch_time, measure
from mnist_lightning.data.module import MNISTDataModule

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "CNN"])
def test_package_and_plain_loop_end_with_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = MNISTDataModule.setup

    def set_up_part(self: MNISTDataModule, stage: str) -> None:
        setup(self, stage)
        self.train_indices, self.val_indices = self.train_indices[:8192], self.val_indices[:1000]

    monkeypatch.setattr(MNISTDataModule, "setup", set_up_part)
    data = MNISTDataModule(batch_size=512)  # 16 steps
    data.setup("fit")
    seed_everything(0, workers=True, verbose=False)
    plain = epoch_time.MODELS[name]()
    torch.manual_seed(int(np.random.SeedSequence((0, 0, 0)).generate_state(1)[0]))  # as the first epoch begins
    epoch_time.plain_epoch(plain, data)
    _, trained = epoch_time.package_epoch(name, 512, "cpu", tmp_path)
    expected, weights = plain.network.state_dict(), trained.network.state_dict()
    assert all(torch.equal(expected[key], weights[key]) for key in expected)


def test_variants_are_measured_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []

    def variant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = measure.alternate({"a": lambda: variant("a"), "b": lambda: variant("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert measure.ratio([4.0, 6.0, 9.0], [2.0, 2.0, 3.0]) == {"median": 3.0, "min": 2.0, "max": 3.0, "all": [2, 3, 3]}


@pytest.mark.slow
def test_inference_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.inference", "--repeats", "1", "--output", str(tmp_path / "i.json")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    written = json.loads((tmp_path / "i.json").read_text())
    assert [row["model"] for row in written["rows"]] == ["MLP", "CNN"]
    assert written["machine"]["cores"] > 0
    assert "predict / bare seconds" in done.stdout


@pytest.mark.longest
@pytest.mark.slow
def test_killed_runs_end_like_uninterrupted_ones(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.kills",
        "--kills",
        "1",
        "--max_kills",
        "1",
        "--variants",
        "2",
        "--epochs",
        "3",
    ]
    done = subprocess.run([*command, "--output", str(tmp_path / "k.json")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "k.json").read_text())["rows"]
    assert row["kills"] == row["identical"] >= 1
