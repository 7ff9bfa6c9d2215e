"""A stored recipe brings settings along, and no class."""

from pathlib import Path

import pytest
import yaml

from mnist_lightning import recipes

EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.99}}
HOSTILE = [
    {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "elsewhere"}},
    {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.getpid"}},
    {**EMA, "init_args": {"decay": {"class_path": "malice.Malice"}}},
    {**EMA, "init_args": ["malice.Malice"]},
    {"class_path": 3},
    "malice.Malice",
    None,
]


@pytest.mark.parametrize("callback", [EMA, {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}])
def test_harmless_callbacks_are_kept(callback: object) -> None:
    recipe = yaml.safe_dump({"trainer": {"max_epochs": 3, "callbacks": [callback]}})
    assert yaml.safe_load(recipes.without_classes(recipe)) == {"trainer": {"max_epochs": 3, "callbacks": [callback]}}


@pytest.mark.parametrize("callback", HOSTILE)
def test_others_are_left_out_and_told(callback: object) -> None:
    recipe = yaml.safe_dump({"model": {"class_path": "malice.Malice"}, "trainer": {"callbacks": [callback]}})
    kept = recipes.without_classes(recipe)
    assert yaml.safe_load(kept) == {"trainer": {"callbacks": None}}
    if callback is not None:
        with pytest.raises(ValueError, match=r"was trained with trainer.callbacks .* nothing is imported"):
            recipes.check_same(Path("last.ckpt"), yaml.safe_dump({"trainer": {"callbacks": [callback]}}), kept)


@pytest.mark.parametrize(
    "recipe",
    [
        "data: {augmentation: {class_path: malice.Malice}}",
        "data: {augmentation: evil.yaml}",
        "data: {batch_size: {class_path: malice.Malice}}",
        "data: evil.yaml",
        "config: /etc/passwd",
        "config: 'trainer: {callbacks: [{class_path: malice.Malice}]}'",
        "ckpt_path: elsewhere.ckpt",
        "optimizer: {class_path: malice.Malice}",
        "trainer: {default_root_dir: elsewhere}",
        "trainer: {profiler: advanced}",
        "trainer: {callbacks: ModelCheckpoint}",
        "trainer: {logger: {class_path: malice.Malice}}",
        "trainer: {strategy: {class_path: malice.Malice}}",
        "seed_everything: {class_path: malice.Malice}",
    ],
)
def test_nothing_else_is_kept(recipe: str) -> None:
    assert yaml.safe_load(recipes.without_classes(recipe)) == {}


@pytest.mark.parametrize("name", ["logger", "plugins", "profiler"])
def test_own_classes_must_be_given_again(name: str) -> None:
    own = {"class_path": "mine.Own", "init_args": {"size": 3}}
    recipe = yaml.safe_dump({"trainer": {name: own}})
    with pytest.raises(ValueError, match=f"was trained with trainer.{name}.class_path .'mine.Own'., and nothing"):
        recipes.check_same(Path("last.ckpt"), recipe, recipes.without_classes(recipe))
    recipes.check_same(Path("last.ckpt"), recipe, recipe)
    recipes.check_same(Path("last.ckpt"), yaml.safe_dump({"trainer": {name: None}}), recipe)  # one more


@pytest.mark.parametrize("recipe", ["[]", "trainer: 3", "trainer: [max_epochs]", "3", "", "a: ["])
def test_what_is_no_recipe_is_told(recipe: str) -> None:
    with pytest.raises(ValueError, match="the checkpoint's recipe is no"):
        recipes.without_classes(recipe)


@pytest.mark.parametrize(
    "name", ["trainer.gradient_clip_val", "trainer.val_check_interval", "model.init_args.dropout", "data.batch_size"]
)
def test_what_decides_a_number_stays(name: str) -> None:
    settings: dict[str, object] = {}
    inner = settings
    *outer, last = name.split(".")
    for part in outer:
        inner[part] = inner = {}
    inner[last] = 1
    stored = yaml.safe_dump(settings)
    inner[last] = 2
    with pytest.raises(ValueError, match=f"{name} is 1 in last.ckpt, not 2, and a resumed run keeps its settings"):
        recipes.check_same(Path("last.ckpt"), stored, yaml.safe_dump(settings))
    assert recipes.flatten(settings) == {name: 2}
