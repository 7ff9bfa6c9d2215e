"""Only files written by `export` are run."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mnist_lightning.errors import UserError
from mnist_lightning.serving.runtime import ExportedClassifier


def test_any_number_of_images_is_accepted(exported: Path) -> None:
    classifier = ExportedClassifier(exported)
    for size in (1, 2, 7, 64):
        probabilities = classifier(np.zeros((size, 28, 28), np.uint8))
        assert (probabilities.shape, str(probabilities.dtype)) == ((size, 10), "float32")
        np.testing.assert_allclose(probabilities.sum(1), np.ones(size), atol=1e-5)


def test_path_and_bytes_give_the_same_classifier(exported: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), "u1")
    one, other = ExportedClassifier(exported), ExportedClassifier(exported.read_bytes())
    assert (one.class_names, one.metadata) == (other.class_names, other.metadata)
    assert np.array_equal(one(images), other(images))


def other_model() -> bytes:
    """Returns a valid ONNX file with other inputs and outputs."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [value], [result])
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    return content


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 1000, other_model()])
def test_file_not_written_by_export_is_rejected(content: bytes) -> None:
    path = Path("model.onnx")
    path.write_bytes(content)
    problem = "can't be read, is damaged, or was not written by export"
    for source, name in ((path, "model.onnx"), (content, "the exported model")):
        with pytest.raises(UserError) as error:
            ExportedClassifier(source)
        assert str(error.value) == f"{name} {problem}"


def test_missing_file_is_reported() -> None:
    with pytest.raises(UserError) as error:
        ExportedClassifier(Path("no.onnx"))
    assert str(error.value) == "no.onnx can't be read, is damaged, or was not written by export"


def test_wrong_number_of_class_names_is_reported(exported: Path) -> None:
    proto = onnx.load(exported)
    onnx.helper.set_model_props(proto, {"class_names": '["a", "b"]'})
    with pytest.raises(UserError, match=r"^the exported model can't be read, is damaged, or was not written by"):
        ExportedClassifier(proto.SerializeToString())
