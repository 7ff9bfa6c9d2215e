"""The service: pictures or arrays in, predictions out, every error with its reason."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from mnist_lightning import images
from mnist_lightning.images import Digit

if TYPE_CHECKING:  # its runtime doesn't survive a fork, and the first process imports this
    from mnist_lightning.exported import ExportedClassifier

Result = TypeVar("Result")

MAX_BYTES = 2 * 1024**2
"""Of a request's body."""
MAX_PIXELS = 16_000_000
"""Of a picture: 2 MiB can hold far more, and each costs 20 bytes while it is read."""
MAX_IMAGES = 256
"""Of a request: in its JSON, or in its picture."""
EXPECTED = '{"images": [[[28 whole numbers from 0 to 255], …28 rows], …]}'
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """Lets a few requests work at a time, lets more wait, and turns the others away.

    Args:
        num_working: How many work. They have threads of their own, since what a thread has used stays with it.
        num_waiting: How many wait.
    """

    def __init__(self, num_working: int, num_waiting: int) -> None:
        self.places = threading.Semaphore(num_working + num_waiting)
        self.pool = ThreadPoolExecutor(num_working)

    def run(self, work: Callable[[], Result]) -> Result:
        """Waits for its turn, and does the work.

        Raises:
            ServiceUnavailable: Too many wait already.
        """
        if not self.places.acquire(blocking=False):
            raise ServiceUnavailable("too many requests at a time; try again in a second", retry_after=1)
        try:
            return self.pool.submit(work).result()
        finally:
            self.places.release()


def create_app(classifier: "ExportedClassifier", gate: Gate | None = None) -> Flask:
    """Returns the service as a Flask app.

    Args:
        classifier: What answers; it has answered a warm-up already.
        gate: How many requests work and wait; default: as many as there are cores, at most 4, and 96.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    gate = gate or Gate(min(os.cpu_count() or 1, 4), 96)

    @app.get("/")
    def page() -> Response:
        return app.send_static_file("index.html")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> dict[str, Any]:
        return {"status": "ready", "model": classifier.metadata}

    @app.post("/predict")
    def predict() -> Response:
        many = _wants_many()
        body = _read_body()  # before the gate, where a slow client would be in others' way
        if many and not isinstance(body, bytes):
            raise BadRequest("digits=many looks for digits in a picture; leave it out with JSON")

        def work() -> tuple[list[Digit], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
            digits = _find_digits(body, many) if isinstance(body, bytes) else body
            pixels = np.stack([digit.image for digit in digits])
            return digits, pixels, classifier(pixels)

        digits, pixels, probabilities = gate.run(work)
        answers = _answers(pixels, probabilities, classifier.class_names)
        if not many:
            return jsonify(predictions=answers)
        for answer, digit in zip(answers, digits, strict=True):
            answer["box"] = {name: getattr(digit, name) for name in ("left", "top", "width", "height")}
        texts = [answer["prediction"] for answer in answers]
        return jsonify(predictions=answers, lines=images.join_lines(list(zip(digits, texts, strict=True))))

    @app.errorhandler(HTTPException)
    def tell(error: HTTPException) -> Response:
        headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
        is_own = error.description != type(error).description
        too_large = f"the request has more than {MAX_BYTES >> 20} MiB"
        reason = too_large if error.code == 413 and not is_own else error.description
        text = app.json.dumps({"error": reason})
        return Response(text, error.code, headers, content_type="application/json")

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers.extend(HEADERS)
        if request.path == "/predict":
            response.headers["Cache-Control"] = "no-store"
        return response

    return app


def _wants_many() -> bool:
    digits = request.args.get("digits", "one")
    if digits not in ("one", "many"):
        raise BadRequest(f"digits={digits[:20]} is not known; give one or many")
    return digits == "many"


def _read_body() -> bytes | list[Digit]:
    """Returns the picture in a request's body, or the images in its JSON."""
    if request.mimetype == "application/json":
        return _digits(request.get_data())
    if request.mimetype == "multipart/form-data":
        if "image" not in request.files:
            raise BadRequest("the form has no file named image")
        content: bytes = request.files["image"].read()
    elif request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        content = request.get_data()
    else:
        raise UnsupportedMediaType("send a picture (image/png, …), a form (multipart/form-data) or application/json")
    if not content:
        raise BadRequest("the picture is empty")
    return content


def _find_digits(picture: bytes, many: bool) -> list[Digit]:
    try:
        digits = images.find_digits(picture, many, MAX_PIXELS)
    except images.LargePictureError as error:
        raise RequestEntityTooLarge(str(error)) from error
    except images.UnknownPictureError as error:
        raise UnsupportedMediaType(str(error)) from error
    except images.PictureError as error:
        raise UnprocessableEntity(str(error)) from error
    if len(digits) > MAX_IMAGES:
        raise RequestEntityTooLarge(f"the picture has {len(digits):,} digits; at most {MAX_IMAGES} are read")
    return digits


def _digits(text: bytes) -> list[Digit]:
    """Returns the images in JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the JSON is damaged, or nested too deeply") from error
    arrays = content.get("images") if isinstance(content, dict) else None
    if not isinstance(arrays, list) or not arrays:
        raise UnprocessableEntity(f"the JSON has no images; send {EXPECTED}")
    if len(arrays) > MAX_IMAGES:
        raise RequestEntityTooLarge(f"the JSON has {len(arrays):,} images; at most {MAX_IMAGES} are read")
    for number, array in enumerate(arrays):
        if not _is_image(array):
            raise UnprocessableEntity(f"images[{number}] is no image; send {EXPECTED}")
    return [Digit(np.array(array, np.uint8), 0, 0, 28, 28) for array in arrays]


def _is_image(array: Any) -> bool:
    return _has_28(array) and all(
        _has_28(row) and all(type(value) is int and 0 <= value <= 255 for value in row) for row in array
    )


def _has_28(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 28


def _answers(
    pixels: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "prediction": class_names[row.argmax()],
            "confidence": float(row.max()),
            "probabilities": dict(zip(class_names, row.tolist(), strict=True)),
            "image": image.tolist(),
        }
        for image, row in zip(pixels, probabilities, strict=True)
    ]
