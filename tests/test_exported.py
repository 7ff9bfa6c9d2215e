"""Files that are no exported classifier are told."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mnist_lightning.exported import ExportedClassifier


def other_model() -> bytes:
    """Returns a sound ONNX file that takes and gives something else."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [value], [result])
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    return content


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 1000, other_model()])
def test_other_files_are_told(content: bytes) -> None:
    path = Path("model.onnx")
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        ExportedClassifier(path)
    assert str(error.value) == "model.onnx is no ONNX file of `python -m mnist_lightning export`, or damaged"
