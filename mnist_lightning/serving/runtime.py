"""An exported classifier, run by onnxruntime. No torch here."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from mnist_lightning.errors import UserError
from mnist_lightning.images import InputFormat


class ExportedClassifier:
    """A classifier from an ONNX file written by `export`, or from its content; raises a UserError for other files."""

    def __init__(self, source: Path | bytes, num_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 4  # errors are raised anyway
        name = source if isinstance(source, Path) else "the exported model"
        try:
            content = source.read_bytes() if isinstance(source, Path) else source
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)  # from `export`
            self.class_names: list[str] = json.loads(self.metadata["class_names"])  # in the order of the probabilities
            _, size, *_, channels = [*self.session.get_inputs()[0].shape, 1][:4]
            self.inputs = InputFormat(size, channels, self.metadata.get("is_handwriting", "True") == "True")
            if self(np.zeros((1, *self.inputs.shape), np.uint8)).shape != (1, len(self.class_names)):  # also warms up
                raise ValueError
        except Exception as error:  # onnxruntime's own errors share no base class
            raise UserError(f"{name} can't be read, is damaged, or was not written by export") from error

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8, or of the shape in `inputs`."""
        return np.asarray(self.session.run(["probabilities"], {"images": images})[0], np.float32)
