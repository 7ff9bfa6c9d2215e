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
from mnist_lightning.serving.runtime import INPUT, OUTPUT, ExportedClassifier

OPSET = 20  # ONNX operator set of 2023, supported since onnxruntime 1.17
TOLERANCE = 1e-5  # largest difference in a probability that counts as rounding
BATCH_SIZES = (1, 2, 7, 64, 1000)  # the last one is used for all images, the others for two batches


class Deployed(nn.Module):
    """Everything between an image and its probabilities: normalization, network and temperature of a model."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model.probabilities(images)


def export_onnx(
    model: Classifier, path: Path, images: Tensor, labels: Tensor, details: Mapping[str, str]
) -> tuple[float, float]:
    """Writes a classifier as one ONNX file, or raises a UserError if the file predicts otherwise for images.

    Returns the largest difference in a probability, and the accuracy of both.
    """
    deployed = Deployed(model)
    with torch.inference_mode():
        expected = torch.cat([deployed(batch) for batch in images.split(BATCH_SIZES[-1])])  # type: ignore[no-untyped-call]
    accuracy = (expected.argmax(1) == labels).float().mean().item()
    metadata = {**details, "class_names": json.dumps(model.class_names), "accuracy": f"{accuracy:.4f}"}
    metadata["is_handwriting"] = str(model.inputs.is_handwriting)
    content = _to_onnx(deployed, metadata)
    exported = ExportedClassifier(content, num_threads=torch.get_num_threads())
    differences = []
    for size in BATCH_SIZES:
        chosen = images if size == BATCH_SIZES[-1] else images[: 2 * size]
        batches = chosen.split(size)  # type: ignore[no-untyped-call]
        found = torch.cat([torch.from_numpy(exported(batch.numpy())) for batch in batches])
        differences.append((found - expected[: len(chosen)]).abs().max().item())
        num_changed = int((found.argmax(1) != expected[: len(chosen)].argmax(1)).sum())
        if num_changed or not differences[-1] <= TOLERANCE:  # `not` also catches NaN
            where = f"{differences[-1]:.1e} in batches of {size}, and in {num_changed:,} of {len(chosen):,} predictions"
            raise UserError(f"the exported model differs from the checkpoint by {where}; nothing was written")
    write_atomically(path, content)
    return max(differences), accuracy


def _to_onnx(deployed: Deployed, metadata: Mapping[str, str]) -> bytes:
    shape = (2, *deployed.model.inputs.shape)  # a batch of one would make the batch size a constant
    example = torch.zeros(shape, dtype=torch.uint8)
    named: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    named["dynamic_shapes"] = ({0: torch.export.Dim("N")},)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # the exporter's own warnings
        program = torch.onnx.export(deployed, (example,), opset_version=OPSET, dynamo=True, verbose=False, **named)
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())
