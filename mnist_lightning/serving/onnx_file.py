"""A classifier as one ONNX file: pixels in, probabilities out, verified before it is written."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from mnist_lightning.errors import UserError
from mnist_lightning.files import write_atomically
from mnist_lightning.models import Classifier
from mnist_lightning.serving.runtime import ExportedClassifier

OPSET = 20  # ONNX operator set of 2023, supported since onnxruntime 1.17
TOLERANCE = 1e-5  # largest difference in a probability that counts as rounding


def export_onnx(model: Classifier, path: Path, images: Tensor, expected: Tensor, details: Mapping[str, str]) -> float:
    """Writes an ONNX file and returns the largest difference from expected probabilities, or raises a UserError."""
    metadata = {"class_names": json.dumps(model.class_names), "is_handwriting": str(model.inputs.is_handwriting)}
    content = _to_onnx(model, {**details, **metadata})
    exported = ExportedClassifier(content, num_threads=torch.get_num_threads())
    batches = images.tensor_split([1, 3, 10, *range(74, len(images), 1000)])  # of 1, 2, 7, 64 and 1000 images
    found = torch.cat([torch.from_numpy(exported(batch.numpy())) for batch in batches if len(batch)])
    difference = (found - expected).abs().max().item()
    num_changed = int((found.argmax(1) != expected.argmax(1)).sum())
    if num_changed or not difference <= TOLERANCE:  # `not` also catches NaN
        where = f"{difference:.1e}, and in {num_changed:,} of {len(images):,} predictions"
        raise UserError(f"the exported model differs from the checkpoint by {where}; nothing was written")
    write_atomically(path, content)
    return difference


def _to_onnx(model: Classifier, metadata: Mapping[str, str]) -> bytes:
    example = torch.zeros((2, *model.inputs.shape), dtype=torch.uint8)  # one image would make the batch size a constant
    options: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities"], "opset_version": OPSET}
    options["dynamic_shapes"] = ({0: torch.export.Dim("N")},)
    deployed = nn.Module()  # everything between an image and its probabilities
    deployed.model, deployed.forward = model.eval(), model.probabilities
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # the exporter's own warnings
        program = torch.onnx.export(deployed, (example,), dynamo=True, verbose=False, **options)
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())
