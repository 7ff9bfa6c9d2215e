"""The exported file is the same classifier, or there is none."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mnist_lightning import checkpoints, export
from mnist_lightning.__main__ import main
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.ensemble import rebuild
from mnist_lightning.exported import ExportedClassifier
from mnist_lightning.models import normalize
from mnist_lightning.runs import PRETRAINED
from tests.conftest import BEST, MLP, SMALL, line_of


@pytest.mark.slow
def test_the_shipped_weights_predict_the_same_on_all_test_images(capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "--ckpt_path", "pretrained", "--output", "model.onnx"])
    output = capsys.readouterr().out
    assert "verified    10,000 images, the same predictions" in output
    assert "99.71% accuracy" in output
    classifier = ExportedClassifier(Path("model.onnx"))
    data = MNISTDataModule()
    data.setup("test")
    images = data.test_images.images[:500]
    model = rebuild(checkpoints.read(PRETRAINED))
    with torch.inference_mode():
        expected = model(normalize(images, 0.1307, 0.3081)).softmax(1)
    found = torch.from_numpy(classifier(images.numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (float(classifier.metadata["accuracy"]), classifier.metadata["dataset"]) == (0.9971, "MNIST")


def test_the_file_says_what_it_takes_and_what_it_is(run: Path) -> None:
    main(["export", "--output", "folder/model.onnx"])
    proto = onnx.load("folder/model.onnx")
    (taken,), (given,) = proto.graph.input, proto.graph.output
    shapes = [[size.dim_param or size.dim_value for size in part.type.tensor_type.shape.dim] for part in (taken, given)]
    assert [taken.name, given.name] == ["images", "probabilities"]
    assert shapes[0][1:] == [28, 28]
    assert shapes[1] == [shapes[0][0], 10]
    assert isinstance(shapes[0][0], str)
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", export.OPSET)]
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert len(metadata["checkpoint_sha256"]) == 64
    assert metadata["model"] == "MLP"


def test_any_number_of_images_is_taken(exported: Path) -> None:
    classifier = ExportedClassifier(exported)
    for size in (1, 2, 7, 64):
        probabilities = classifier(np.zeros((size, 28, 28), np.uint8))
        np.testing.assert_allclose(probabilities.sum(1), np.ones(size), atol=1e-5)


def test_an_ensemble_is_exported_too(run: Path) -> None:
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1", "--seed_everything", "1"])
    paths = [str(BEST), "lightning_logs/version_1/checkpoints/best.ckpt"]
    data = ["--data.dataset", "Tiny"]
    main(["export", "--model", "Ensemble", "--model.init_args.ckpt_paths", *paths, *data])
    parts = []
    for path in paths:
        main(["export", "--ckpt_path", path, "--output", "one.onnx"])
        parts.append(ExportedClassifier(Path("one.onnx")))
    whole = ExportedClassifier(Path("model.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), "u1")
    np.testing.assert_allclose(whole(images), (parts[0](images) + parts[1](images)) / 2, atol=1e-5)
    assert whole.metadata["checkpoint"] == ", ".join(paths)


def test_a_temperature_is_part_of_it(run: Path) -> None:
    content = torch.load(BEST, weights_only=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), "u1")
    sure = []
    for temperature in (0.5, 2.0):
        content["state_dict"]["temperature"] = torch.tensor(temperature)
        torch.save(content, "warm.ckpt")
        main(["export", "--ckpt_path", "warm.ckpt"])
        sure.append(ExportedClassifier(Path("model.onnx"))(images).max(1))
    assert (sure[0] > sure[1]).all()


def test_another_classifier_is_not_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._to_onnx

    def spoilt(deployed: export.Deployed, details: dict[str, str]) -> bytes:
        deployed.mean = 5.0
        return write(deployed, details)

    monkeypatch.setattr(export, "_to_onnx", spoilt)
    assert "the exported model differs from the checkpoint by " in line_of(["export"], capsys)
    assert not Path("model.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--output", "."], "--output . is a folder or lies in a file; give a file to write"),
        (["--ckpt_path", "no.ckpt"], "checkpoint no.ckpt is not a file; give a path, best, last or pretrained"),
        (["--outputs", "a.onnx"], "see python -m mnist_lightning export --help"),
    ],
)
def test_bad_input_is_told_in_one_line(
    flags: list[str], problem: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in line_of(["export", *flags], capsys)
