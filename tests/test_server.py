"""The service: what it answers, what it refuses, and that nobody gets a traceback."""

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from mnist_lightning.data import MNISTDataModule
from mnist_lightning.exported import ExportedClassifier
from mnist_lightning.images import find_digits
from mnist_lightning.server.app import MAX_BYTES, Gate, create_app

EMPTY = [[0] * 28] * 28


@pytest.fixture(scope="module")
def classifier(exported: Path) -> ExportedClassifier:
    return ExportedClassifier(exported)


@pytest.fixture(scope="module")
def digits() -> npt.NDArray[np.uint8]:
    data = MNISTDataModule()
    data.setup("test")
    return np.asarray(data.test_images.images[:10])


@pytest.fixture
def client(classifier: ExportedClassifier) -> FlaskClient:
    return create_app(classifier).test_client()


def png(digits: npt.NDArray[np.uint8]) -> bytes:
    """Returns a picture of digits side by side, dark on bright and eight times as large."""
    stream = io.BytesIO()
    Image.fromarray(255 - np.kron(np.hstack(list(digits)), np.ones((8, 8), "u1"))).save(stream, "png")
    return stream.getvalue()


def error(response: TestResponse) -> str:
    """Returns the one thing that an error's JSON holds."""
    content = response.get_json()
    assert list(content) == ["error"]
    return str(content["error"])


def test_a_picture_is_read_as_the_command_reads_it(
    client: FlaskClient, classifier: ExportedClassifier, digits: npt.NDArray[np.uint8]
) -> None:
    picture = png(digits[:1])
    raw = client.post("/predict", data=picture, content_type="image/png").get_json()
    form = client.post("/predict", data={"image": (io.BytesIO(picture), "digit.png")}).get_json()
    assert raw == form
    (answer,) = raw["predictions"]
    (digit,) = find_digits(picture)
    assert answer["image"] == digit.image.tolist()
    (probabilities,) = classifier(digit.image[None]).tolist()
    assert answer["probabilities"] == dict(zip("0123456789", probabilities, strict=True))
    assert (answer["prediction"], answer["confidence"]) == ("7", max(probabilities))


def test_json_images_stay_as_they_are(client: FlaskClient, digits: npt.NDArray[np.uint8]) -> None:
    answers = client.post("/predict", json={"images": digits.tolist()}).get_json()["predictions"]
    assert [answer["prediction"] for answer in answers] == list("7210414959")
    assert [answer["image"] for answer in answers] == digits.tolist()


def test_many_digits_come_with_their_boxes_and_lines(client: FlaskClient, digits: npt.NDArray[np.uint8]) -> None:
    response = client.post("/predict?digits=many", data=png(digits[:4]), content_type="image/png")
    content = response.get_json()
    assert content["lines"] == ["7210"]
    for number, answer in enumerate(content["predictions"]):
        box = answer["box"]
        assert abs(box["left"] + box["width"] / 2 - (8 * 28 * number + 112)) < 40
        assert 0 <= box["top"] < box["top"] + box["height"] <= 8 * 28


def test_many_digits_are_looked_for_in_pictures_alone(client: FlaskClient) -> None:
    response = client.post("/predict?digits=many", json={"images": [EMPTY]})
    assert response.status_code == 400
    assert response.get_json() == {"error": "digits=many looks for digits in a picture; leave it out with JSON"}


def test_it_says_that_it_lives_and_which_model_is_ready(client: FlaskClient) -> None:
    assert client.get("/healthz").get_json() == {"status": "alive"}
    ready = client.get("/readyz").get_json()
    assert (ready["status"], ready["model"]["dataset"]) == ("ready", "MNIST")


BODIES: list[tuple[int, str, dict[str, Any]]] = [
    (400, "the picture is empty", {"data": b"", "content_type": "image/png"}),
    (400, "the form has no file named image", {"data": {"picture": (io.BytesIO(b"1"), "a.png")}}),
    (415, "send a picture", {"data": b"<p>7</p>", "content_type": "text/html"}),
    (415, "send a picture", {"data": b"7"}),
    (415, "the picture is not a picture in PNG, JPEG", {"data": b"7", "content_type": "image/png"}),
    (415, "the picture is not a picture in PNG, JPEG", {"data": b"<svg/>", "content_type": "image/svg+xml"}),
    (400, "the JSON is damaged, or nested too deeply", {"data": b"{", "content_type": "application/json"}),
    (400, "the JSON is damaged, or nested too deeply", {"data": b"[" * 500_000, "content_type": "application/json"}),
    (422, "the JSON has no images", {"json": {}}),
    (422, "the JSON has no images", {"json": []}),
    (422, "the JSON has no images", {"json": {"images": []}}),
    (422, "images[1] is no image", {"json": {"images": [EMPTY, EMPTY[1:]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [0] * 27]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [256] * 28]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [-1] * 28]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [0.5] * 28]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [True] * 28]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], [float("nan")] * 28]]}}),
    (422, "images[0] is no image", {"json": {"images": [[*EMPTY[1:], ["a" * 28] * 28]]}}),
    (413, "the JSON has 257 images; at most 256 are read", {"json": {"images": [EMPTY] * 257}}),
    (413, "the request has more than 2 MiB", {"data": b"0" * (MAX_BYTES + 1), "content_type": "image/png"}),
    (413, "the request has more than 2 MiB", {"data": b"0" * (MAX_BYTES + 1), "content_type": "application/json"}),
]


@pytest.mark.parametrize(("status", "reason", "body"), BODIES)
def test_what_can_not_be_read_is_told(client: FlaskClient, status: int, reason: str, body: dict[str, Any]) -> None:
    response = client.post("/predict", **body)
    assert response.status_code == status
    assert reason in error(response)


def test_pictures_that_can_not_be_used_are_told(client: FlaskClient, digits: npt.NDArray[np.uint8]) -> None:
    def post(content: bytes) -> tuple[int, str]:
        response = client.post("/predict", data=content, content_type="application/octet-stream")
        return response.status_code, error(response)

    def encoded(size: tuple[int, int]) -> bytes:
        stream = io.BytesIO()
        Image.new("L", size, 255).save(stream, "png")
        return stream.getvalue()

    assert post(encoded((50, 50))) == (422, "the picture is blank: nothing on it stands out from the paper")
    assert post(encoded((4001, 4000))) == (413, "the picture has 4,001 x 4,000 pixels; at most 16,000,000 are read")
    specks = np.full((600, 600), 255, "u1")
    specks[5::10, 5::10] = specks[5::10, 6::10] = specks[6::10, 5::10] = specks[6::10, 6::10] = 0
    stream = io.BytesIO()
    Image.fromarray(specks).save(stream, "png")
    assert client.post("/predict?digits=many", data=stream.getvalue(), content_type="image/png").status_code == 422
    not_numbers = io.BytesIO()
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(not_numbers, "tiff")
    assert post(not_numbers.getvalue())[0] == 422
    status, reason = post(png(digits[:1])[:500])
    assert status == 422
    assert reason.startswith("the picture is damaged")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/predict", 405), ("post", "/", 405), ("get", "/no", 404), ("get", "/static/../app.py", 404)],
)
def test_wrong_places_are_told(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = getattr(client, method)(path)
    assert (response.status_code, bool(error(response))) == (status, True)
    if status == 405:
        assert response.headers["Allow"]


def test_a_wrong_question_is_told(client: FlaskClient) -> None:
    assert error(client.post("/predict?digits=two")) == "digits=two is not known; give one or many"


def test_a_mistake_of_its_own_is_told_without_a_traceback(classifier: ExportedClassifier) -> None:
    class Broken:
        class_names, metadata = classifier.class_names, classifier.metadata

        def __call__(self, images: object) -> None:
            raise RuntimeError("secret")

    app = create_app(Broken())  # type: ignore[arg-type]
    response = app.test_client().post("/predict", json={"images": [EMPTY]})
    assert response.status_code == 500
    assert "secret" not in error(response)


def test_more_requests_than_may_wait_are_turned_away(
    classifier: ExportedClassifier, digits: npt.NDArray[np.uint8]
) -> None:
    working, finish = threading.Event(), threading.Event()

    class Slow:
        class_names, metadata = classifier.class_names, classifier.metadata

        def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            working.set()
            finish.wait()
            return classifier(images)

    app = create_app(Slow(), Gate(num_working=1, num_waiting=0))  # type: ignore[arg-type]
    body = {"images": digits[:1].tolist()}
    answers = []
    first = threading.Thread(target=lambda: answers.append(app.test_client().post("/predict", json=body)))
    first.start()
    working.wait()
    turned_away = app.test_client().post("/predict", json=body)
    assert (turned_away.status_code, turned_away.headers["Retry-After"]) == (503, "1")
    assert "try again" in error(turned_away)
    assert app.test_client().get("/healthz").status_code == 200
    finish.set()
    first.join()
    assert answers[0].get_json()["predictions"][0]["prediction"] == "7"
    assert app.test_client().post("/predict", json=body).status_code == 200


def test_every_answer_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/static/page.js", "/no", "/predict", "/healthz"):
        with client.get(path) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_takes_nothing_from_outside(client: FlaskClient) -> None:
    for name in ("", "static/page.js", "static/page.css"):
        with client.get(f"/{name}") as response:
            text = response.get_data(as_text=True)
        assert "http:" not in text
        assert "https:" not in text
        assert " style=" not in text
