"""A space is checked before anything is searched, and its values are flags of `fit`."""

from pathlib import Path

import optuna
import pytest

from mnist_lightning.tuning.space import as_flags, read_space

SPACE = """
model.init_args.learning_rate: {low: 1e-4, high: 1e-1, log: true}
model.init_args.hidden_sizes: {choices: [[16], [32, 16]], only_with: MLP}
data.batch_size: {low: 32, high: 96, step: 32}
data.augmentation.scale: {low: 0, high: 0.5}
"""


def test_trial_chooses_from_the_space(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    rate, sizes, batch_size, scale = read_space(tmp_path / "space.yaml")
    assert (rate.only_with, sizes.only_with) == (None, "MLP")
    assert (sizes.values(), batch_size.values()) == ([[16], [32, 16]], [32, 96])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        assert 1e-4 <= rate.suggest(trial) <= 1e-1
        assert sizes.suggest(trial) in ([16], [32, 16])
        assert batch_size.suggest(trial) in (32, 64, 96)
        assert 0 <= scale.suggest(trial) <= 0.5
    assert isinstance(trial.params["data.augmentation.scale"], float)


def test_space_begins_with_the_model(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(f"{SPACE}model: {{choices: [MLP, CNN]}}")
    assert read_space(tmp_path / "space.yaml")[0].name == "model"


def test_values_become_flags() -> None:
    values = {"model": "CNN", "model.init_args.widths": [8, 16], "data.dataset": "KMNIST"}
    assert as_flags(values) == ["--model=CNN", "--model.init_args.widths=[8, 16]", "--data.dataset=KMNIST"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("a: {low: 64, high: 8}", "is not a valid range: `low <= high` must hold"),
        ("a: {low: x, high: y}", "low, high and step must be numbers"),
        ("a: {choices: []}", "choices must be a nonempty list"),
        ("a: {choices: 3}", "choices must be a nonempty list"),
        ("a: {choices: [1], step: 1}", "choices must be a nonempty list, without other keys"),
        ("a: {low: 0, high: 8, log: true}", "is not a valid range: "),
        ("a: {low: 1, high: 8, log: true, step: 2}", "is not a valid range: "),
        ("a: {low: 1, high: 9, step: 0}", "is not a valid range: `step > 0` must hold"),
        ("a: {low: 1, high: 9, step: 3}", "is not a valid range: The distribution is specified by [1, 9] and step=3"),
        ("a: {low: 1, high: 9, step: x}", "low, high and step must be numbers"),
        ("a: {low: 1, high: .inf}", "low, high and step must be numbers"),
        ("a: {low: .nan, high: 1}", "low, high and step must be numbers"),
        ("trainer.max_epochs: {low: 1, high: 9}", "can't be searched; remove it and use --epochs"),
        ("seed_everything: {choices: [1, 2]}", "can't be searched; remove it and use --seeds"),
        ("trainer: {choices: [{max_epochs: 2}]}", "can't be searched; remove it and use settings like data.batch_size"),
        (f"a: {{low: 1, high: {'9' * 400}}}", "low, high and step must be numbers"),
        ("a: {choices: 2026-01-01}", "choices must be a nonempty list"),
        ("a: 64", "is not a valid range: "),
        ("a: {low: 8}", "is not a valid range: "),
        ("a: {low: 8, high: 9, base: 2}", "is not a valid range: "),
        ("a: {low: 1, high: 2}\na.b: [", "can't be read: it is not valid YAML ("),
        ("[1]", "must map flags of fit to ranges"),
    ],
)
def test_invalid_range_is_rejected(tmp_path: Path, space: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(space)
    with pytest.raises(ValueError) as error:
        read_space(tmp_path / "space.yaml")
    assert message in str(error.value)
