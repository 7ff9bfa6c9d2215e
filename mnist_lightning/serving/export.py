"""A classifier as one ONNX file, verified before it is written; or as a page, where the browser runs the network."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnist_lightning.errors import UserError, needs_extra
from mnist_lightning.files import write_atomically
from mnist_lightning.models import CNN, MLP, Classifier

OPSET = 20  # ONNX operator set of 2023, supported since onnxruntime 1.17
TOLERANCE = 1e-5  # largest difference in a probability that counts as rounding
STATIC = Path(__file__).parent / "static"


def export_onnx(model: Classifier, path: Path, images: Tensor, expected: Tensor, details: Mapping[str, str]) -> float:
    """Writes an ONNX file and returns the largest difference from expected probabilities, or raises a UserError."""
    metadata = {"class_names": json.dumps(model.class_names), "is_handwriting": str(model.inputs.is_handwriting)}
    with needs_extra("export"):
        from mnist_lightning.serving.runtime import ExportedClassifier

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
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, which isn't used, is missing
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


def export_page(model: Classifier, folder: Path, details: Mapping[str, str]) -> None:
    """Writes the page and a network of digits, with weights as float16; or raises a UserError for other networks."""
    if type(model) not in (MLP, CNN) or not model.inputs.is_handwriting:
        given = f"{type(model).__name__} of {details['dataset']}"
        raise UserError(f"--web needs an MLP or a CNN of handwriting, not this {given}; choose another --ckpt_path")
    layers, content = [], b""
    for layer in model.network.children():
        weights = {name: value.half() for name, value in layer.state_dict().items() if value.is_floating_point()}
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        constants = {name: getattr(layer, name) for name in getattr(layer, "__constants__", ())}
        layers.append({"kind": type(layer).__name__, "weights": shapes, **constants})
        content += b"".join(tensor.numpy().tobytes() for tensor in weights.values())
    network = {name: model.hparams[name] for name in ("class_names", "mean", "std")}
    network |= {"temperature": model.temperature.item(), "can_abstain": model.can_abstain}
    network |= {"metadata": dict(details), "layers": layers}
    files = {f"static/{file.name}": file.read_bytes() for file in STATIC.iterdir() if file.name != "openapi.json"}
    files |= {"static/network.json": json.dumps(network).encode(), "static/weights.bin": content}
    files |= {"static/reader.js": files.pop("static/standalone.js"), "index.html": files.pop("static/index.html")}
    for name, data in files.items():
        write_atomically(folder / name, data)
