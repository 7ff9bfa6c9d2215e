"""The service answers with predictions, or with an error as JSON, never with a traceback."""

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from mnist_lightning.images import find_digits
from mnist_lightning.reporting.sheets import UNSURE
from mnist_lightning.serving.app import MAX_BYTES, create_app
from mnist_lightning.serving.runtime import ExportedClassifier
from tests.conftest import UInt8, png, scan

EMPTY = [[0] * 28] * 28


@pytest.fixture(scope="module")
def classifier(exported: Path) -> ExportedClassifier:
    return ExportedClassifier(exported)


@pytest.fixture
def client(classifier: ExportedClassifier) -> FlaskClient:
    return create_app(classifier).test_client()


def post_image(client: FlaskClient, image: bytes, query: str = "") -> TestResponse:
    return client.post(f"/predict{query}", data=image, content_type="application/octet-stream")


def error(response: TestResponse) -> str:
    """Returns the only thing in an error's JSON."""
    content = response.get_json()
    assert list(content) == ["error"]
    return str(content["error"])


def test_endpoint_reads_images_like_the_command(
    client: FlaskClient, classifier: ExportedClassifier, mnist_images: UInt8
) -> None:
    image = png(scan(mnist_images[0]))
    raw = client.post("/predict", data=image, content_type="image/png").get_json()
    form = client.post("/predict", data={"image": (io.BytesIO(image), "digit.png")}).get_json()
    assert raw == form
    (answer,) = raw["predictions"]
    (digit,) = find_digits(image)
    assert answer["image"] == digit.image.tolist()
    (probabilities,) = classifier(digit.image[None]).tolist()
    assert answer["probabilities"] == dict(zip("0123456789", probabilities, strict=True))
    assert (answer["prediction"], answer["confidence"]) == ("7", max(probabilities))
    assert answer["known"] == pytest.approx(1 - 10 * min(probabilities), abs=1e-6)


def test_page_takes_the_same_confidence_for_uncertain(client: FlaskClient) -> None:
    script = Path(client.application.root_path) / "static" / "page.js"
    assert f"const UNSURE = {UNSURE};" in script.read_text()


def test_images_in_json_are_unchanged(client: FlaskClient, mnist_images: UInt8) -> None:
    answers = client.post("/predict", json={"images": mnist_images[:10].tolist()}).get_json()["predictions"]
    assert [answer["prediction"] for answer in answers] == list("7210414959")
    assert [answer["image"] for answer in answers] == mnist_images[:10].tolist()


def test_many_digits_have_boxes_and_lines(client: FlaskClient, mnist_images: UInt8) -> None:
    content = post_image(client, png(scan(np.hstack(list(mnist_images[:4])))), "?digits=many").get_json()
    assert content["lines"] == ["7210"]
    for number, answer in enumerate(content["predictions"]):
        box = answer["box"]
        assert abs(box["left"] + box["width"] / 2 - (8 * 28 * number + 112)) < 40
        assert 0 <= box["top"] < box["top"] + box["height"] <= 8 * 28


def test_healthz_and_readyz_respond(client: FlaskClient) -> None:
    assert client.get("/healthz").get_json() == {"status": "alive"}
    ready = client.get("/readyz").get_json()
    assert (ready["status"], ready["model"]["dataset"]) == ("ready", "MNIST")


def images_with(row: list[Any]) -> dict[str, Any]:
    """Returns a request's arguments: JSON with a blank image whose last row is replaced."""
    return {"json": {"images": [EMPTY, [*EMPTY[1:], row]]}}


INVALID = 'the JSON has no valid images; send {"images": […]}, each as 28 x 28 integers from 0 to 255'
BODIES: list[tuple[int, str, dict[str, Any]]] = [
    (400, "the image is empty, or the form has no file named image", {"data": b"", "content_type": "image/png"}),
    (400, "the image is empty, or the form has no file named image", {"data": {"photo": (io.BytesIO(b"1"), "a.png")}}),
    (415, "send image/png or another image, multipart/form-data", {"data": b"<p>7</p>", "content_type": "text/html"}),
    (415, "send image/png or another image, multipart/form-data", {"data": b"7"}),
    (415, "the image is not in a supported format; use PNG", {"data": b"7", "content_type": "image/png"}),
    (
        415,
        "the image is not in a supported format; use PNG, JPEG",
        {"data": b"<svg/>", "content_type": "image/svg+xml"},
    ),
    (400, "the JSON is invalid, or nested too deeply", {"data": b"{", "content_type": "application/json"}),
    (400, "the JSON is invalid, or nested too deeply", {"data": b"\xff", "content_type": "application/json"}),
    (400, "the JSON is invalid, or nested too deeply", {"data": b"[" * 500_000, "content_type": "application/json"}),
    (422, INVALID, {"json": {}}),
    (422, INVALID, {"json": []}),
    (422, INVALID, {"json": {"images": []}}),
    (422, INVALID, {"json": {"images": None}}),
    (422, INVALID, {"json": {"images": [[]]}}),
    (422, INVALID, {"json": {"images": [EMPTY, EMPTY[1:]]}}),
    (422, INVALID, images_with([0] * 27)),
    (422, INVALID, images_with([256] * 28)),
    (422, INVALID, images_with([-1] * 28)),
    (422, INVALID, images_with([10**400] * 28)),
    (422, INVALID, images_with([0.5] * 28)),
    (422, INVALID, images_with([True] * 28)),
    (422, INVALID, images_with([None] * 28)),
    (422, INVALID, images_with([float("nan")] * 28)),
    (422, INVALID, images_with(["a" * 28] * 28)),
    (413, "the JSON has 257 images; the limit is 256", {"json": {"images": [EMPTY] * 257}}),
    (413, "the request is larger than 2 MiB", {"data": b"0" * (MAX_BYTES + 1), "content_type": "image/png"}),
    (413, "the request is larger than 2 MiB", {"data": b"0" * (MAX_BYTES + 1), "content_type": "application/json"}),
]


@pytest.mark.parametrize(("status", "reason", "body"), BODIES)
def test_unreadable_request_is_reported(client: FlaskClient, status: int, reason: str, body: dict[str, Any]) -> None:
    response = client.post("/predict", **body)
    assert response.status_code == status
    assert error(response).startswith(reason)


def test_long_text_in_json_uses_little_memory(client: FlaskClient) -> None:
    tracemalloc.start()
    response = client.post("/predict", **images_with(["a" * 100_000, *[0] * 27]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (response.status_code, error(response)) == (422, INVALID)
    assert peak < 20_000_000


def test_unusable_image_is_reported(client: FlaskClient, mnist_images: UInt8) -> None:
    def problem(image: bytes, query: str = "") -> tuple[int, str]:
        response = post_image(client, image, query)
        return response.status_code, error(response)

    def paper(width: int, height: int) -> bytes:
        return png(np.full((height, width), 255, np.uint8))

    assert problem(paper(50, 50)) == (422, "the image is blank: nothing stands out from the paper")
    assert problem(paper(4001, 4000)) == (413, "the image has 4,001 x 4,000 pixels; the limit is 16,000,000")
    dots = np.full((200, 300), 255, np.uint8)
    dots[5::5, 5::5] = 0
    assert problem(png(dots)) == (422, "the image is blank: there is nothing but specks")
    specks = 255 - 255 * (np.random.default_rng(0).random((200, 200)) > 0.95).astype(np.uint8)
    status, reason = problem(png(np.kron(specks, np.ones((3, 3), np.uint8))), "?digits=many")
    assert status == 422
    assert reason.startswith("the image is blank: there are ")
    ladder = np.full((40, 100), 255, np.uint8)
    ladder[8:32, 8:92] = np.kron(np.arange(14) % 2 * 255, np.ones((24, 6), np.uint8))
    ladder[18:22, 8:92] = 0
    expected = (413, "the image has more than 4,096 pieces of ink")
    assert problem(png(np.tile(ladder, (30, 15))), "?digits=many") == expected
    not_numbers = io.BytesIO()
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(not_numbers, "tiff")
    assert problem(not_numbers.getvalue())[0] == 422
    status, reason = problem(png(scan(mnist_images[0]))[:500])
    assert status == 422
    assert reason.startswith("the image is damaged (")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/predict", 405), ("post", "/", 405), ("get", "/no", 404), ("get", "/static/../app.py", 404)],
)
def test_wrong_method_or_path_is_reported(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = getattr(client, method)(path)
    assert (response.status_code, bool(error(response))) == (status, True)
    if status == 405:
        assert response.headers["Allow"]


def test_wrong_parameter_is_reported(client: FlaskClient) -> None:
    response = client.post("/predict?digits=two")
    assert (response.status_code, error(response)) == (400, "digits=two is not allowed; use one or many")
    response = client.post("/predict?digits=many", json={"images": [EMPTY]})
    expected = (400, "digits=many needs an image, and a model of handwriting; omit it")
    assert (response.status_code, error(response)) == expected


def test_internal_error_hides_its_details(classifier: ExportedClassifier) -> None:
    class Broken:
        class_names, metadata = classifier.class_names, classifier.metadata

        def __call__(self, images: npt.NDArray[np.uint8]) -> None:
            raise RuntimeError("secret")

    app = create_app(Broken())  # type: ignore[arg-type]
    response = app.test_client().post("/predict", json={"images": [EMPTY]})
    assert response.status_code == 500
    assert "secret" not in error(response)


def test_every_response_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/static/page.js", "/no", "/predict", "/healthz"):
        with client.get(path) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert (response.headers.get("Cache-Control") == "no-store") == (path == "/predict")


def test_page_loads_no_external_resources(client: FlaskClient) -> None:
    for name in ("", "static/page.js", "static/why.js", "static/page.css"):
        with client.get(f"/{name}") as response:
            text = response.get_data(as_text=True)
        assert response.status_code == 200
        assert "http:" not in text
        assert "https:" not in text
        assert " style=" not in text


def test_other_sites_may_use_the_api_only_if_allowed(classifier: ExportedClassifier) -> None:
    body = {"images": [EMPTY]}
    closed, opened = create_app(classifier), create_app(classifier, "https://example.org")
    assert "Access-Control-Allow-Origin" not in closed.test_client().post("/predict", json=body).headers
    for response in (
        opened.test_client().post("/predict", json=body),
        opened.test_client().options("/predict"),
    ):
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
        assert response.headers["Access-Control-Allow-Headers"] == "Content-Type"


def test_description_of_the_api_lists_every_route(client: FlaskClient) -> None:
    with client.get("/openapi.json") as response:
        content = response.get_json()
    routes = {rule.rule for rule in client.application.url_map.iter_rules()} - {"/", "/openapi.json"}
    assert {*content["paths"]} == {route for route in routes if not route.startswith("/static")}
    answer = client.post("/predict", json={"images": [EMPTY]}).get_json()
    assert {*answer} <= {*content["components"]["schemas"]["Answer"]["properties"]}
    assert {*answer["predictions"][0]} <= {*content["components"]["schemas"]["Prediction"]["properties"]}
