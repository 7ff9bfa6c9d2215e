"""Flags win over recipes, and those over checkpoints; wrong ones get one line."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from mnist_lightning import sources
from mnist_lightning.__main__ import main
from mnist_lightning.models import CNN
from mnist_lightning.runs import NEXT_STEP
from tests.conftest import BEST, RUN, SMALL, line_of

SEE = "see python -m mnist_lightning fit --help"


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


@pytest.mark.parametrize("flag", ["--config", "--data", "--trainer", "--model"])
def test_settings_of_a_group_are_looked_at_like_recipes(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [1, 1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    Path("bomb.yaml").write_text("\n".join(lines))
    for args in ([flag, "bomb.yaml"], [f"{flag}=bomb.yaml"]):
        assert "bomb.yaml has more than 20 aliases, which settings don't need" in line_of(["fit", *args], capsys)


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


def test_a_recipe_of_another_class_keeps_nothing_of_the_default_class(capsys: pytest.CaptureFixture[str]) -> None:
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
    monkeypatch.setattr("mnist_lightning.arguments.known_classes", lambda: {"mnist_lightning.models.CNN": CNN})
    expected = f"error: checkpoint {BEST} holds a own_model.Linear, not a CNN; give --model own_model.Linear\n"
    assert line_of(["test"], capsys) == expected
    main(["test", "--model", "own_model.Linear"])


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
            ["fit", "--data.augmentation.scale", "1"],
            "augmentation scale 1.0 is not allowed; it must be between 0 and 0.9",
        ),
        (["fit", "--data.augmentation.shift", "-5"], "augmentation shift -5.0 is not allowed; it must be 0 or more"),
        (
            ["fit", "--trainer.max_epochs", "0"],
            "--trainer.max_epochs 0 leaves nothing to do; give 1 or more",
        ),
        (["test"], f"no run in lightning_logs has a best checkpoint; {NEXT_STEP}, or give --ckpt_path pretrained"),
        (
            ["validate", "--ckpt_path", "best"],
            f"no run in lightning_logs has a best checkpoint; {NEXT_STEP}, or give --ckpt_path pretrained",
        ),
        (["fit", "--ckpt_path", "last"], f"no run in lightning_logs has a last checkpoint; {NEXT_STEP}"),
        (
            ["predict", "--ckpt_path", "no.ckpt"],
            f"checkpoint no.ckpt is not a file; give a path, best, last or pretrained, or {NEXT_STEP}",
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
