"""The service: images in, predictions out; every error is JSON with its reason."""

import json
import logging
import os
import socket
from typing import Any

import numpy as np
import waitress
from flask import Blueprint, Flask, Response, current_app, jsonify, request
from werkzeug import exceptions

from mnist_lightning.images import MIN_KNOWN, Digit, InputFormat, choose, join_lines, reading
from mnist_lightning.serving.runtime import ExportedClassifier

MAX_BYTES = 2 * 1024**2  # per request body
MAX_PIXELS = 16_000_000  # per image: 2 MiB can hold far more, and each pixel takes 20 bytes while it is read
MAX_IMAGES = 256  # per request with JSON
MAX_THREADS = 4  # requests processed at once, given enough cores; others wait, and slow clients occupy none
MAX_CONNECTIONS = 400  # further clients wait for a free one; within select's limit on all systems
IDLE_S = 10  # seconds after which a connection without traffic is closed
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

routes = Blueprint("routes", __name__)


def create_app(classifier: ExportedClassifier, cors_origin: str | None = None) -> Flask:
    """Returns a Flask app that serves a classifier, to pages of another origin, too, if it is given."""
    app = Flask(__name__)
    cors = {"Access-Control-Allow-Origin": cors_origin, "Access-Control-Allow-Headers": "Content-Type"}
    headers = HEADERS | cors if cors_origin else HEADERS
    app.config.update(MAX_CONTENT_LENGTH=MAX_BYTES, CLASSIFIER=classifier, HEADERS=headers)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.register_blueprint(routes)
    return app


def run(app: Flask, listener: socket.socket, url_prefix: str = "") -> None:
    """Serves on a listening socket until a KeyboardInterrupt; requests in progress are still answered."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns about every request that waits
    limits = {"threads": min(os.cpu_count() or 1, MAX_THREADS), "connection_limit": MAX_CONNECTIONS}
    times = {"channel_timeout": IDLE_S, "cleanup_interval": 1}
    waitress.create_server(app, sockets=[listener], url_prefix=url_prefix, ident=None, **limits, **times).run()


@routes.get("/", defaults={"name": "index.html"})
@routes.get("/openapi.json", defaults={"name": "openapi.json"})
def send_file(name: str) -> Response:
    """The page to draw on, and the description of this API."""
    return current_app.send_static_file(name)


@routes.get("/healthz")
def healthz() -> dict[str, str]:
    """Reports that the process is alive."""
    return {"status": "alive"}


@routes.get("/readyz")
def readyz() -> dict[str, Any]:
    """Reports which model is ready."""
    return {"status": "ready", "model": current_app.config["CLASSIFIER"].metadata}


@routes.post("/predict")
def predict() -> Response:
    """Predicts the digits in an image, or arrays of pixels."""
    mode = request.args.get("digits", "one")
    if mode not in ("one", "many"):
        raise exceptions.BadRequest(f"digits={mode[:20]} is not allowed; use one or many")
    classifier: ExportedClassifier = current_app.config["CLASSIFIER"]
    is_json = request.mimetype == "application/json"
    if mode == "many" and (is_json or not classifier.inputs.is_handwriting):
        raise exceptions.BadRequest("digits=many needs an image, and a model of handwriting; omit it")
    digits = _parse_arrays(classifier.inputs) if is_json else _read_image(classifier.inputs, mode == "many")
    probabilities = classifier(np.stack([digit.image for digit in digits]))
    chosen, confidences = choose(digits, probabilities)
    digits, probabilities = [digits[index] for index in chosen], probabilities[chosen]
    answers: list[dict[str, Any]] = [
        {
            "prediction": classifier.class_names[row.argmax()],
            "confidence": confidence,
            "known": 1 - classifier.inputs.is_handwriting * row.size * float(row.min()),  # as in `predict`
            "probabilities": dict(zip(classifier.class_names, row.tolist(), strict=True)),
            "image": digit.image.tolist(),
        }
        for digit, confidence, row in zip(digits, confidences, probabilities, strict=True)
    ]
    if mode == "one":
        return jsonify(predictions=answers)
    for answer, digit in zip(answers, digits, strict=True):
        answer["box"] = {name: getattr(digit, name) for name in ("left", "top", "width", "height")}
    texts = [answer["prediction"] if answer["known"] >= MIN_KNOWN else "?" for answer in answers]
    return jsonify(predictions=answers, lines=join_lines(list(zip(digits, texts, strict=True))))


@routes.app_errorhandler(exceptions.HTTPException)
def report_error(error: exceptions.HTTPException) -> Response:
    """Returns an error as JSON."""
    reason = error.description
    if error.code == 413 and reason == type(error).description:
        reason = f"the request is larger than {MAX_BYTES >> 20} MiB"
    return Response(json.dumps({"error": reason}), error.code, error.get_headers(), content_type="application/json")


@routes.after_app_request
def add_headers(response: Response) -> Response:
    """Adds the security headers."""
    response.headers.extend(current_app.config["HEADERS"])
    if request.path == "/predict":
        response.headers["Cache-Control"] = "no-store"
    return response


def _read_image(inputs: InputFormat, many: bool) -> list[Digit]:
    if request.mimetype == "multipart/form-data":
        content: bytes = request.files["image"].read() if "image" in request.files else b""
    elif request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        content = request.get_data()
    else:
        exceptions.abort(415, "send image/png or another image, multipart/form-data or application/json")
    if not content:
        raise exceptions.BadRequest("the image is empty, or the form has no file named image")
    try:
        return inputs.read(content, many, MAX_PIXELS)
    except reading.ImageError as error:
        exceptions.abort(error.status, str(error))


def _parse_arrays(inputs: InputFormat) -> list[Digit]:
    try:
        content = json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        raise exceptions.BadRequest("the JSON is invalid, or nested too deeply") from error
    arrays = content.get("images") if isinstance(content, dict) else None
    if isinstance(arrays, list) and len(arrays) > MAX_IMAGES:
        raise exceptions.RequestEntityTooLarge(f"the JSON has {len(arrays):,} images; the limit is {MAX_IMAGES}")
    pixels = np.array(arrays, dtype=object)  # other types accept booleans, or pad each cell to the longest text
    if pixels.shape[1:] != inputs.shape or not all(type(v) is int and 0 <= v <= 255 for v in pixels.flat):
        expected = f'{{"images": […]}}, each as {" x ".join(map(str, inputs.shape))} integers from 0 to 255'
        raise exceptions.UnprocessableEntity(f"the JSON has no valid images; send {expected}")
    return [Digit(image, 0, 0, len(image), len(image), 0, i, i + 1) for i, image in enumerate(pixels.astype(np.uint8))]
