"""A classifier as one ONNX file: pixels in, probabilities out, verified before it is put in place."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from mnist_lightning.exported import INPUT, OUTPUT, ExportedClassifier
from mnist_lightning.files import write_atomically
from mnist_lightning.models import Classifier, normalize

OPSET = 20
"""The operators' version, of 2023: any runtime since onnxruntime 1.17 knows them."""
TOLERANCE = 1e-5
"""Largest difference of a probability that is rounding."""
BATCH_SIZES = (1, 2, 7, 64, 1000)
"""The last one is used for all images."""


@dataclass(frozen=True)
class Verification:
    """How an exported classifier compares with the one that it came from.

    Attributes:
        num_images: How many images both have classified.
        largest_difference: Of any probability.
        accuracy: The exported classifier's, as a fraction.
    """

    num_images: int
    largest_difference: float
    accuracy: float


class Deployed(nn.Module):
    """All that stands between an image and its probabilities.

    Args:
        model: Its normalisation, network and temperature.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model.eval()
        self.mean, self.std = model.hparams["mean"], model.hparams["std"]

    def forward(self, images: Tensor) -> Tensor:
        """Returns probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8."""
        logits: Tensor = self.model(normalize(images, self.mean, self.std))
        return logits.softmax(1)


def export_onnx(
    model: Classifier, path: Path, images: Tensor, labels: Tensor, details: Mapping[str, str]
) -> Verification:
    """Writes a classifier as one ONNX file, unless it is not the same classifier any more.

    Args:
        model: The classifier.
        path: The file.
        images: `(N, 28, 28)` uint8 to verify with.
        labels: `(N,)` integers.
        details: Kept in the file's metadata, beside class names and accuracy.

    Raises:
        ValueError: The exported classifier does not agree; there is no file then.
        OSError: The file can't be written.
    """
    deployed = Deployed(model)
    with torch.inference_mode():
        expected = torch.cat([deployed(batch) for batch in torch.split(images, BATCH_SIZES[-1])])
    accuracy = (expected.argmax(1) == labels).float().mean().item()
    content = _to_onnx(
        deployed, {**details, "class_names": json.dumps(model.class_names), "accuracy": f"{accuracy:.4f}"}
    )
    exported = ExportedClassifier(content, num_threads=torch.get_num_threads())
    differences = []
    for size in BATCH_SIZES:
        chosen = images if size == BATCH_SIZES[-1] else images[: 2 * size]
        found = torch.cat([torch.from_numpy(exported(batch.numpy())) for batch in torch.split(chosen, size)])
        wanted = expected[: len(chosen)]
        differences.append((found - wanted).abs().max().item())
        num_changed = int((found.argmax(1) != wanted.argmax(1)).sum())
        if num_changed or not differences[-1] <= TOLERANCE:  # NaN is not, either
            raise ValueError(
                f"the exported model differs from the checkpoint by {differences[-1]:.1e} in batches of {size}, and "
                f"in {num_changed:,} of {len(chosen):,} predictions, so that nothing is written"
            )
    write_atomically(path, content)
    return Verification(len(images), max(differences), (found.argmax(1) == labels).float().mean().item())


def _to_onnx(deployed: Deployed, details: Mapping[str, str]) -> bytes:
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)  # with one image, its number would be taken for a constant
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # the exporter's own
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ValueError("the exported model would take batches of one size alone, so that nothing is written")
    onnx.helper.set_model_props(proto, dict(details))
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content
