"""A space is checked before anything is searched, and its values are flags of `fit`."""

from pathlib import Path

import optuna
import pytest

from mnist_lightning.space import as_flags, read_space

SPACE = """
model.init_args.learning_rate: {low: 1e-4, high: 1e-1, log: true}
model.init_args.hidden_sizes: {choices: [[16], [32, 16]], only_with: MLP}
data.batch_size: {low: 32, high: 96, step: 32}
data.augmentation.scale: {low: 0, high: 0.5}
"""


def test_a_trial_chooses_from_the_space(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    rate, sizes, batch_size, scale = read_space(tmp_path / "space.yaml")
    assert [rate.label, sizes.label, batch_size.label] == ["learning_rate", "hidden_sizes", "batch_size"]
    assert (rate.only_with, sizes.only_with) == (None, "MLP")
    assert (sizes.values(), batch_size.values()) == ([[16], [32, 16]], [32, 96])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        assert 1e-4 <= rate.suggest(trial) <= 1e-1
        assert sizes.suggest(trial) in ([16], [32, 16])
        assert batch_size.suggest(trial) in (32, 64, 96)
        assert 0 <= scale.suggest(trial) <= 0.5
    assert isinstance(trial.params["scale"], float)


def test_names_that_end_alike_keep_their_whole_name(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("a.size: {choices: [1]}\nb.size: {choices: [1]}\n")
    assert [parameter.label for parameter in read_space(tmp_path / "space.yaml")] == ["a.size", "b.size"]


def test_flags_begin_with_the_model() -> None:
    values = {"model.init_args.widths": [8, 16], "data.dataset": "KMNIST", "model": "CNN"}
    assert as_flags(values) == ["--model=CNN", "--model.init_args.widths=[8, 16]", "--data.dataset=KMNIST"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("a: {low: 64, high: 8}", "has nothing in it; low must be less than high"),
        ("a: {low: x, high: y}", "is no range; low, high and step must be numbers"),
        ("a: {choices: []}", "has no choices; give one or more in a list"),
        ("a: {choices: 3}", "has no choices; give one or more in a list"),
        ("a: {low: 0, high: 8, log: true}", "can't be logarithmic; low must be more than 0"),
        (
            "a: {low: 1, high: 8, log: true, step: 2}",
            "can't be logarithmic; low must be more than 0, and step left out",
        ),
        ("a: {low: 1, high: 9, step: 0}", "can't be searched: `step > 0` must hold"),
        ("a: {low: 1, high: 9, step: 3}", "has steps that don't end at high; give another high or step"),
        ("a: {low: 1, high: 9, step: x}", "is no range; low, high and step must be numbers"),
        ("a: {low: 1, high: .inf}", "low, high and step must be numbers"),
        ("a: {low: .nan, high: 1}", "low, high and step must be numbers"),
        ("a: {low: 1, high: 9, log: 2}", "has a log that is neither true nor false"),
        ("trainer.max_epochs: {low: 1, high: 9}", "is what tune decides itself; leave it out, and see --epochs"),
        ("seed_everything: {choices: [1, 2]}", "is what tune decides itself; leave it out, and see --seeds"),
        ("trainer: {choices: [{max_epochs: 2}]}", "is no single setting; give flags such as data.batch_size"),
        (f"a: {{low: 1, high: {'9' * 400}}}", "low, high and step must be numbers"),
        ("a: {choices: 2026-01-01}", "has no choices; give one or more in a list"),
        ("a: 64", "is no range; give {low: …, high: …}"),
        ("a: {low: 8}", "is no range; give low and high, with log or step, or choices alone"),
        ("a: {low: 8, high: 9, base: 2}", "is no range; give low and high, with log or step, or choices alone"),
        ("[1]", "must map flags of fit to ranges"),
    ],
)
def test_what_is_no_range_is_told(tmp_path: Path, space: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(space)
    with pytest.raises(ValueError) as error:
        read_space(tmp_path / "space.yaml")
    assert message in str(error.value)
