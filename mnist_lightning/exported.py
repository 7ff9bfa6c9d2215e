"""A classifier out of the file that `export` writes, run by onnxruntime. No torch here."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

INPUT, OUTPUT = "images", "probabilities"


class ExportedClassifier:
    """Turns images into probabilities.

    Args:
        source: An ONNX file of `export`, or what is in it.
        num_threads: Threads that work on one call.

    Attributes:
        metadata: What `export` wrote about the model: dataset, checkpoint's hash, accuracy, versions.
        class_names: In the order of the probabilities.

    Raises:
        ValueError: The file is damaged, or was not written by `export`.
    """

    def __init__(self, source: Path | bytes, num_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 4  # what is wrong is told below
        name = source if isinstance(source, Path) else "the exported model"
        content = source.read_bytes() if isinstance(source, Path) else source
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
            self.class_names: list[str] = json.loads(self.metadata["class_names"])
            if self(np.zeros((1, 28, 28), np.uint8)).shape != (1, len(self.class_names)):  # a warm-up, too
                raise ValueError("it has other classes")
        except Exception as error:  # onnxruntime's own exceptions share no class
            raise ValueError(f"{name} is no ONNX file of `python -m mnist_lightning export`, or damaged") from error

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns probabilities `(N, C)` float32 for images `(N, 28, 28)` uint8."""
        probabilities: npt.NDArray[np.float32] = self.session.run([OUTPUT], {INPUT: images})[0]
        return probabilities
