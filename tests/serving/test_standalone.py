"""The page without a server, in a real browser: it reads what Python reads."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wasmtime
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, expect

import mnist_lightning
from benchmarks.page import host
from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.errors import UserError
from mnist_lightning.models import CNN, MLP, Classifier
from mnist_lightning.serving.app import create_app
from mnist_lightning.serving.export import STATIC, export_page
from mnist_lightning.serving.runtime import ExportedClassifier
from tests.conftest import UInt8, line_of
from tests.serving.strokes import STYLES, Stroke


def export_small(model: Classifier) -> None:
    export_page(model, Path("site"), {"dataset": "MNIST"})


def open_site(browser: Browser, folder: Path) -> Iterator[Page]:
    """Opens a folder on a static host; requests elsewhere and errors of the script fail the test."""
    with host(folder) as url, browser.new_context() as context:
        page, problems = context.new_page(), list[str]()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda answer: problems.append(answer.url) if not answer.ok else None)
        page.on("request", lambda sent: problems.append(sent.url) if url not in sent.url else None)
        page.goto(url)
        yield page
        assert not problems


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    main(["export", "--ckpt_path", "pretrained", "--web", str(folder)])
    return folder


@pytest.fixture(scope="module")
def page(browser: Browser, site: Path) -> Iterator[Page]:
    yield from open_site(browser, site)


@pytest.fixture(scope="module")
def client(exported: Path) -> FlaskClient:
    return create_app(ExportedClassifier(exported)).test_client()


def classify(page: Page, images: UInt8) -> np.ndarray:
    return np.array(page.evaluate("images => reader.classify(images)", images.tolist()))


@pytest.mark.slow
def test_thousand_digits_get_the_same_probabilities(page: Page) -> None:
    images, _ = sources.load("MNIST", "test", Path("data"))
    expected = mnist_lightning.load().predict(images[:1000]).probabilities
    found = classify(page, images[:1000].numpy())
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert np.abs(found - expected).max() < 0.005


def drawings(number: int) -> Iterator[tuple[str, list[Stroke]]]:
    """Yields drawings: each digit in each style, then numbers of two and three digits, some of which touch."""
    for digits in STYLES.values():
        yield from digits.items()
    rng = random.Random(0)
    for _ in range(number - 10 * len(STYLES)):
        digits, size = rng.choice(list(STYLES.values())), rng.choice([2, 3])
        text, scale, step = "", rng.uniform(0.9, 1.3) / size, rng.uniform(0.6, 0.9) / size
        strokes: list[Stroke] = []
        for place in range(size):
            text += (name := rng.choice("0123456789"))
            move = 0.05 + step * place
            strokes += [[(move + (x - 0.25) * scale, 0.5 + (y - 0.5) * scale) for x, y in s] for s in digits[name]]
        yield text, strokes


READ = """async (lines) => {
    strokes = lines.map((line) => line.map(([x, y]) => ({ x, y })));
    const canvas = drawing();
    const found = await reader.read(canvas, true, new AbortController().signal);
    const file = new FileReader();
    file.readAsDataURL(await canvas.convertToBlob({ type: "image/png" }));
    await new Promise((resolve) => file.onload = resolve);
    return { ...found, image: file.result.split(",")[1] };
}"""


@pytest.mark.slow
def test_drawings_get_the_same_answers_as_from_the_service(page: Page, client: FlaskClient) -> None:
    num_right = 0
    for text, strokes in drawings(120):
        found = page.evaluate(READ, [[list(point) for point in stroke] for stroke in strokes])
        image = base64.b64decode(found["image"])
        expected = client.post("/predict?digits=many", data=image, content_type="image/png").get_json()
        assert found["lines"] == expected["lines"]
        assert [digit["box"] for digit in found["predictions"]] == [digit["box"] for digit in expected["predictions"]]
        for ours, theirs in zip(found["predictions"], expected["predictions"], strict=True):
            assert abs(ours["confidence"] - theirs["confidence"]) < 0.05
            # Python estimates how wide the pen is, and may widen a large digit's strokes by another pixel.
            assert np.abs(np.subtract(ours["image"], theirs["image"])).max() < 64
        num_right += found["lines"] == [text]
    assert num_right >= 110


@pytest.mark.slow
def test_page_reads_while_it_is_drawn_and_offers_no_photos(page: Page) -> None:
    page.evaluate("clearAll()")
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for stroke in STYLES["upright"]["4"]:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=3)
        page.mouse.up()
    expect(page.locator("#answer")).to_have_text("4")
    expect(page.get_by_role("button", name="Photo")).not_to_be_visible()
    expect(page.locator("#offer")).not_to_be_visible()
    page.get_by_role("button", name="Clear").click()


@pytest.mark.slow
@pytest.mark.parametrize("edges_only", [False, True])
def test_any_cnn_is_computed_as_in_python(browser: Browser, edges_only: bool, mnist_images: UInt8) -> None:
    torch.manual_seed(0)
    model = CNN([6, 8, 12], pool_after=2, edges_only=edges_only, outliers=float(edges_only))
    for buffer in (buffer for name, buffer in model.named_buffers() if "running" in name):
        buffer.uniform_(0.5, 1.5)
    compare(browser, model, mnist_images)


@pytest.mark.slow
def test_any_mlp_is_computed_as_in_python(browser: Browser, mnist_images: UInt8) -> None:
    torch.manual_seed(0)
    model = MLP([30, 20], batch_norm=True)
    model.temperature.fill_(0.5)
    compare(browser, model, mnist_images)


def compare(browser: Browser, model: Classifier, images: UInt8) -> None:
    export_small(model)
    for page in open_site(browser, Path("site")):
        expected = model.predict(images[:20]).probabilities
        assert np.abs(classify(page, images[:20]) - expected).max() < 0.002


def test_weights_take_less_than_a_megabyte(site: Path) -> None:
    assert (site / "static" / "weights.bin").stat().st_size < 1e6
    metadata = json.loads((site / "static" / "network.json").read_text())["metadata"]
    assert (metadata["accuracy"], metadata["dataset"], metadata["model"]) == ("0.9965", "MNIST", "CNN")


def test_other_networks_and_other_pictures_are_refused() -> None:
    class Mine(MLP):
        pass

    with pytest.raises(UserError, match="--web needs an MLP or a CNN of handwriting, not this Mine of MNIST; "):
        export_small(Mine([8]))
    with pytest.raises(UserError, match="of handwriting, not this MLP of MNIST; choose another --ckpt_path"):
        export_small(MLP([8], is_handwriting=False))
    assert not Path("site").exists()


def test_folder_that_cannot_be_written_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert "file/static/" in line_of(["export", "--ckpt_path", "pretrained", "--web", "file"], capsys)


def test_binary_is_what_the_text_says() -> None:
    assert wasmtime.wat2wasm((STATIC / "multiply.wat").read_text()) == (STATIC / "multiply.wasm").read_bytes()
