"""Flags override configs, and those the checkpoint's options; invalid ones give one line."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.models import CNN
from mnist_lightning.models.ensemble import known_classes
from mnist_lightning.runs.folders import TRAIN_ONE
from tests.conftest import BEST, RUN, SMALL, line_of

SEE = "see python -m mnist_lightning fit --help"


def test_flags_override_the_checkpoint(tiny: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_source = sources.SOURCES["Tiny"]
    files = {**tiny_source.files, "test": tiny_source.files["train"]}
    monkeypatch.setitem(sources.SOURCES, "Other", dataclasses.replace(tiny_source, files=files))
    main(["test", "--data.dataset", "Other"])
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"]) == ("Other", 400)


def test_normalization_comes_from_the_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["test"])
    before = json.loads((run / "test" / "metrics.json").read_text())["loss"]
    monkeypatch.setitem(sources.SOURCES, "Tiny", dataclasses.replace(sources.SOURCES["Tiny"], mean=0.9, std=2.0))
    main(["test"])
    assert json.loads((run / "test" / "metrics.json").read_text())["loss"] == before


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
def test_class_named_by_a_checkpoint_is_not_imported(
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
    assert line_of(["fit", "--ckpt_path", "bad.ckpt", "--config", f"{RUN}/config.yaml"], capsys).startswith("error: ")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("model: !!python/object/apply:os.system [touch harm]", "could not determine a constructor"),
        ("model: {class_path: os.system, init_args: {command: touch harm}}", 'Parser key "model": Import path os.syst'),
        ("trainer: {callbacks: [{class_path: os.system}]}", 'Parser key "trainer.callbacks": Import path os.system d'),
    ],
    ids=["tag", "model", "callback"],
)
def test_malicious_config_is_rejected(config: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(config)
    assert problem in line_of(["fit", "--config", "config.yaml"], capsys)
    assert [path.name for path in Path().iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.ckpt", "s3://bucket/a.ckpt", "file:///etc/passwd"])
def test_remote_checkpoint_is_rejected(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"error: checkpoint {address} is not a file" in line_of(["test", "--ckpt_path", address], capsys)


def test_flags_win_over_configs_in_any_order(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("trainer:\n  max_epochs: 7\n  default_root_dir: runs\n")
    for args in (["-c", "config.yaml"], ["--config=config.yaml"]):
        for flags in ([*args, "--trainer.max_epochs", "1"], ["--trainer.max_epochs", "1", *args]):
            with pytest.raises(SystemExit):
                main(["fit", *SMALL, *flags, "--print_config"])
            assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == 1
    main(["fit", *SMALL, "--config", "config.yaml", "--trainer.max_epochs", "1"])
    best = Path("runs/lightning_logs/version_0/checkpoints/best.ckpt")
    assert f"test --ckpt_path {best}" in capsys.readouterr().out.replace("\n", "")
    main(["test", "--config", "config.yaml"])
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
        ["--trainer.enable_progress_bar", "true"],
        ["--trainer.accumulate_grad_batches", "2"],
        ["--trainer.limit_train_batches", "2"],
        ["--data.num_workers", "1"],
    ],
)
def test_fit_accepts_trainer_flags(tiny: Path, flags: list[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs", "2", *flags])
    has_checkpoint = flags[0] != "--trainer.enable_checkpointing"
    assert (RUN / "checkpoints" / "last.ckpt").is_file() == has_checkpoint


@pytest.mark.parametrize("output", [".", "file/p.csv"])
def test_unwritable_output_is_reported(run: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    line = line_of(["predict", "--output", output], capsys)
    assert line.startswith(f"error: {output} can't be written (") and line.endswith("; choose another location\n")


@pytest.mark.parametrize(
    "config", ["", "[1, 2]", "model: {", "trainer:\n  nope: 1\n", "data: 3", "trainer: 3", "trainer: [1]"]
)
def test_config_with_mistakes_gives_one_line(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(config)
    line_of(["fit", "--config", "config.yaml", "--data.batch_size", "0"], capsys)


def test_config_with_another_class_discards_the_default_class(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("model: MLP\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "config.yaml", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "mnist_lightning.models.MLP"
    assert config["model"]["init_args"]["dropout"] == 0.2


def test_fast_dev_run_writes_no_files(tiny: Path) -> None:
    main(["fit", *SMALL, "--trainer.fast_dev_run", "true"])
    assert not Path("lightning_logs").exists()


def test_custom_model_can_be_selected_by_its_import_path(
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
    only_cnn = {"mnist_lightning.models.CNN": CNN}
    monkeypatch.setattr("mnist_lightning.arguments.flags.known_classes", lambda: only_cnn)
    expected = f"error: checkpoint {BEST} holds a own_model.Linear; use --model own_model.Linear\n"
    assert line_of(["test"], capsys) == expected
    main(["test", "--model", "own_model.Linear"])


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["fit", "--nope", "3"], f"unrecognized arguments: --nope 3; {SEE}"),
        (["fit", "--config", "no.yaml"], "no.yaml can't be read: No such file or directory"),
        (
            ["fit", "--data.dataset", "CIFAR"],
            "dataset CIFAR is not allowed; it must be one of MNIST, FashionMNIST, KMNIST, QMNIST, EMNISTDigits, "
            "EMNISTBalanced or ImageFolder",
        ),
        (["fit", "--data.batch_size", "0"], "batch_size 0 is not allowed; it must be 1 or more, such as 128"),
        (
            ["fit", "--data.batch_size", "x"],
            f"Parser key \"data.batch_size\": Expected a <class 'int'>. Got value: x; {SEE}",
        ),
        (
            ["fit", "--data.validation_fraction", "1"],
            "validation_fraction 1.0 of 60000 images leaves a part empty; try 0.1",
        ),
        (
            ["fit", "--model", "RNN"],
            'Parser key "model": Expected a dot import path string: RNN; models are {models}; '
            f"{SEE}; did you mean CNN?",
        ),
        (
            ["fit", "--model.init_args.nope", "1"],
            "Parser key \"model\": Problem with given class_path 'mnist_lightning.models.CNN': "
            f"Option 'nope' is not accepted; {SEE}",
        ),
        (
            ["fit", "--model.init_args.widths", "[1,0]"],
            "widths [1, 0] is not allowed; it must be 1 or more each, such as [16, 32, 64]",
        ),
        (
            ["fit", "--trainer.accelerator", "cpu", "--trainer.devices", "none"],
            "--trainer.accelerator cpu --trainer.devices none: `devices` selected with `CPUAccelerator` should be an "
            "int > 0; --trainer.accelerator auto uses what is available",
        ),
        (
            ["fit", "--trainer.max_epochs", "-1"],
            "--trainer.max_epochs -1 leaves the one-cycle schedule without a length; use 1 or more",
        ),
        (
            ["fit", "--trainer.overfit_batches", "1"],
            "--trainer.overfit_batches 1 would replace the sampler; use --trainer.limit_train_batches",
        ),
        (
            ["fit", "--trainer.limit_train_batches", "1.5"],
            "--trainer: You have passed invalid value 1.5 for limit_train_batches, "
            "it has to be in [0.0, 1.0] or an int",
        ),
        (
            ["fit", "--trainer.limit_val_batches", "0"],
            "--trainer.limit_val_batches 0 leaves nothing to do; use 1 or more",
        ),
        (
            ["fit", "--data.batch", "3"],
            f"unrecognized arguments: --data.batch 3; {SEE}; did you mean --data.batch_size?",
        ),
        (
            ["fit", "--model.init_args.mean", "0.4"],
            "--model.init_args.mean comes from the data; use the flags that begin with --data",
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
            "Classifier has no network; choose MLP, CNN or a subclass of your own",
        ),
        (
            ["fit", "--data.augmentation.scale", "1"],
            "augmentation.scale 1.0 is not allowed; it must be between 0 and 0.9",
        ),
        (
            ["fit", "--data.augmentation.shift", "-5"],
            "augmentation.shift -5.0 is not allowed; it must be between 0 and inf",
        ),
        (
            ["fit", "--trainer.max_epochs", "0"],
            "--trainer.max_epochs 0 leaves the one-cycle schedule without a length; use 1 or more",
        ),
        (["test"], f"no run in lightning_logs has a best checkpoint; {TRAIN_ONE}, or use --ckpt_path pretrained"),
        (
            ["validate", "--ckpt_path", "best"],
            f"no run in lightning_logs has a best checkpoint; {TRAIN_ONE}, or use --ckpt_path pretrained",
        ),
        (["fit", "--ckpt_path", "last"], f"no run in lightning_logs has a last checkpoint; {TRAIN_ONE}"),
        (
            ["predict", "--ckpt_path", "no.ckpt"],
            f"checkpoint no.ckpt is not a file; use a path, best, last or pretrained, or {TRAIN_ONE}",
        ),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    args: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = ", ".join(model.__name__ for model in known_classes().values())
    assert line_of(args, capsys) == f"error: {line.replace('{models}', models)}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_missing_gpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["fit", "--trainer.accelerator", "gpu"], capsys) == (
        "error: --trainer.accelerator gpu: No supported gpu backend found; "
        "--trainer.accelerator auto uses what is available\n"
    )


def test_checkpoint_of_other_classes_or_shape_is_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert line_of(["test", "--data.dataset", "EMNISTBalanced"], capsys) == (
        f"error: checkpoint {BEST} holds a mnist_lightning.models.MLP for the classes ['0', '1', '2', '3', '4', '5', "
        "...], but EMNISTBalanced has ['0', '1', '2', '3', '4', '5', ...]; choose another --data.dataset or "
        "--ckpt_path\n"
    )
    assert "but FashionMNIST has ['T-shirt/top', " in line_of(["test", "--data.dataset", "FashionMNIST"], capsys)
    assert line_of(["test", "--model", "CNN"], capsys) == (
        f"error: checkpoint {BEST} holds a mnist_lightning.models.MLP, not a mnist_lightning.models.CNN; "
        "use --model mnist_lightning.models.MLP\n"
    )
    assert line_of(["test", "--model.init_args.hidden_sizes", "[3]"], capsys) == (
        f"error: checkpoint {BEST} holds a mnist_lightning.models.MLP of another shape (size mismatch for "
        "network.1.weight: copying a param with shape torch.Size([24, 784]) from checkpoint, the shape in current "
        "model is torch.Size([3, 784]).); omit the flags that change it\n"
    )
    assert sorted(run.rglob("*")) == before


def test_missing_dataset_is_reported_without_a_run_folder(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["fit", *SMALL, "--data.data_dir", "elsewhere"], capsys) == (
        "error: no valid copy of train-images, train-labels in elsewhere/Tiny/raw, and the download failed (no mirror "
        "is known); put the compressed files there, or name another folder with --data.data_dir\n"
    )
    assert not Path("lightning_logs").exists()
    assert not Path("elsewhere").exists()
