"""A classifier as a page for any static host, where the browser runs the network."""

import json
from collections.abc import Mapping
from pathlib import Path

from mnist_lightning.errors import UserError
from mnist_lightning.files import write_atomically
from mnist_lightning.models import CNN, MLP, Classifier

STATIC = Path(__file__).parent / "static"


def export_page(model: Classifier, folder: Path, details: Mapping[str, str]) -> None:
    """Writes the page and a network of digits, with weights as float16; or raises a UserError for other networks."""
    if type(model) not in (MLP, CNN) or not model.inputs.is_handwriting:
        given = f"{type(model).__name__} of {details['dataset']}"
        raise UserError(f"--web needs an MLP or a CNN of handwriting, not this {given}; choose another --ckpt_path")
    layers = list(model.network.children())
    weights = [{k: v.half() for k, v in layer.state_dict().items() if v.is_floating_point()} for layer in layers]
    network = {
        **{name: model.hparams[name] for name in ("class_names", "mean", "std")},
        **{"temperature": model.temperature.item(), "can_abstain": model.can_abstain, "metadata": dict(details)},
        "layers": [
            {
                "kind": type(layer).__name__,
                "weights": {name: list(tensor.shape) for name, tensor in tensors.items()},
                **{name: getattr(layer, name) for name in getattr(layer, "__constants__", ())},
            }
            for layer, tensors in zip(layers, weights, strict=True)
        ],
    }
    content = b"".join(tensor.numpy().tobytes() for tensors in weights for tensor in tensors.values())
    files = {f"static/{file.name}": file.read_bytes() for file in STATIC.iterdir() if file.name != "openapi.json"}
    files |= {"static/network.json": json.dumps(network).encode(), "static/weights.bin": content}
    files |= {"static/reader.js": files.pop("static/standalone.js"), "index.html": files.pop("static/index.html")}
    for name, data in files.items():
        write_atomically(folder / name, data)
