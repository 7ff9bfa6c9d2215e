"""The exported file predicts the same as the checkpoint, or it is not written."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.data.module import normalize
from mnist_lightning.errors import UserError
from mnist_lightning.models import MLP
from mnist_lightning.models.ensemble import rebuild
from mnist_lightning.runs import checkpoints
from mnist_lightning.runs.folders import PRETRAINED
from mnist_lightning.serving import export
from mnist_lightning.serving.runtime import ExportedClassifier
from tests.conftest import BEST, SMALL
from tests.conftest import MLP as SMALL_MLP


@pytest.mark.slow
def test_exported_pretrained_weights_predict_the_same_on_all_test_images(capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "--ckpt_path", "pretrained", "--output", "model.onnx"])
    output = capsys.readouterr().out
    assert "verified    10,000 images: the same predictions, probabilities within " in output
    assert ", accuracy 99.65%\n" in output
    assert "next        python -m mnist_lightning serve --model model.onnx\n" in output
    classifier = ExportedClassifier(Path("model.onnx"))
    images = sources.load("MNIST", "test", Path("data"))[0][:500]
    model = rebuild(checkpoints.read(PRETRAINED))
    with torch.inference_mode():
        expected = model.calibrated_logits(normalize(images, 0.1307, 0.3081)).softmax(1)
    found = torch.from_numpy(classifier(images.numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (float(classifier.metadata["accuracy"]), classifier.metadata["dataset"]) == (0.9965, "MNIST")


def test_verification_compares_the_file_with_the_model(tiny: Path) -> None:
    images, _ = sources.load("Tiny", "test", tiny)
    model = MLP(hidden_sizes=(8,), mean=0.2, std=0.3).eval()
    with torch.inference_mode():
        probabilities = model.calibrated_logits(normalize(images, 0.2, 0.3)).softmax(1)
    found = export.export_onnx(model, Path("model.onnx"), images, probabilities, {"dataset": "Tiny"})
    classifier = ExportedClassifier(Path("model.onnx"))
    difference = np.abs(classifier(images.numpy()) - probabilities.numpy()).max()
    assert difference <= found < export.TOLERANCE
    assert classifier.metadata["dataset"] == "Tiny"


def test_file_describes_its_input_output_and_origin(run: Path) -> None:
    main(["export", "--output", "folder/model.onnx"])
    proto = onnx.load("folder/model.onnx")
    (images,), (probabilities,) = proto.graph.input, proto.graph.output
    shapes = [
        [size.dim_param or size.dim_value for size in part.type.tensor_type.shape.dim]
        for part in (images, probabilities)
    ]
    assert [images.name, probabilities.name] == ["images", "probabilities"]
    assert shapes[0][1:] == [28, 28]
    assert shapes[1] == [shapes[0][0], 10]
    assert isinstance(shapes[0][0], str)
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", export.OPSET)]
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert len(metadata["checkpoint_sha256"]) == 64
    assert (metadata["model"], metadata["dataset"], metadata["checkpoint"]) == ("MLP", "Tiny", str(BEST))


@pytest.mark.slow
def test_ensemble_is_exported(run: Path) -> None:
    main(["fit", *SMALL, *SMALL_MLP, "--trainer.max_epochs", "1", "--seed_everything", "1"])
    paths = [str(BEST), "lightning_logs/version_1/checkpoints/best.ckpt"]
    data = ["--data.dataset", "Tiny"]
    main(["export", "--model", "Ensemble", "--model.init_args.ckpt_paths", *paths, *data])
    members = []
    for path in paths:
        main(["export", "--ckpt_path", path, "--output", "one.onnx"])
        members.append(ExportedClassifier(Path("one.onnx")))
    ensemble = ExportedClassifier(Path("model.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), "u1")
    np.testing.assert_allclose(ensemble(images), (members[0](images) + members[1](images)) / 2, atol=1e-5)
    assert ensemble.metadata["checkpoint"] == ", ".join(paths)


@pytest.mark.slow
def test_temperature_is_exported(tiny: Path) -> None:
    images, _ = sources.load("Tiny", "test", tiny)
    model, confidences = MLP(hidden_sizes=(8,)), []
    for temperature in (0.5, 2.0):
        model.temperature.fill_(temperature)
        expected = torch.from_numpy(model.predict(images).probabilities)
        export.export_onnx(model, Path("model.onnx"), images, expected, {})
        confidences.append(ExportedClassifier(Path("model.onnx"))(images.numpy()).max(1))
    assert (confidences[0] > confidences[1]).all()


@pytest.mark.parametrize("wrong_mean", [5.0, float("nan")])
def test_file_that_predicts_differently_is_not_written(tiny: Path, wrong_mean: float) -> None:
    images, _ = sources.load("Tiny", "test", tiny)
    model = MLP(hidden_sizes=(8,))
    expected = torch.from_numpy(model.predict(images).probabilities)
    model.hparams["mean"] = wrong_mean
    with pytest.raises(UserError, match=r"^the exported model differs from the checkpoint by .*; nothing was written$"):
        export.export_onnx(model, Path("model.onnx"), images, expected, {})
    assert not Path("model.onnx").exists()
