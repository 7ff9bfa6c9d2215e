"""The page in a real browser: drawing, photos, and a server that restarts."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import Service, serve
from tests.conftest import UInt8, png, scan
from tests.serving.strokes import STYLES, UPRIGHT, Stroke

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Service]:
    with serve("--model", str(exported)) as service:
        yield service


@contextlib.contextmanager
def opened(browser: Browser, service: Service, **options: Any) -> Iterator[Page]:
    """Opens the page; errors of its script and violations of the security policy fail the test."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Security Policy" in line.text else None)
        page.goto(f"http://127.0.0.1:{service.port}/")
        yield page
        assert not problems


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with opened(browser, service) as page:
        yield page


def draw(page: Page, strokes: list[Stroke]) -> None:
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def wait_for_answer(page: Page) -> None:
    while page.evaluate("pointer !== null || request === null || request.isPending"):
        page.wait_for_timeout(20)


def write_photo(images: UInt8) -> Path:
    """Writes a photo of images side by side."""
    path = Path("photo.png")
    path.write_bytes(png(scan(np.hstack(list(images)), 6)))
    return path


def test_number_is_as_sure_as_its_least_sure_digit(page: Page) -> None:
    found = """([first, second]) => ["7", "1"].map((prediction, i) => ({
        prediction, confidence: [first, second][i], known: 1, image: Array(28).fill(Array(28).fill(0)),
        probabilities: { [prediction]: 0.9, 2: 0.1 }, box: { left: 100 + 200 * i, top: 100, width: 100, height: 100 },
    }))"""
    page.evaluate(f"showLines({{ predictions: ({found})([0.95, 0.6]), lines: ['71'] }})")
    expect(page.locator("#answer")).to_have_class(re.compile("unsure"))
    expect(page.get_by_text("Unsure about the 1.")).to_be_visible()
    page.locator("#boxes button").first.dispatch_event("click")
    expect(page.locator("#answer")).to_have_class(re.compile("unsure"))
    page.evaluate(f"showLines({{ predictions: ({found})([0.95, 0.9]), lines: ['71'] }})")
    expect(page.locator("#answer")).not_to_have_class(re.compile("unsure"))


def test_a_class_that_is_a_word_is_no_number(page: Page) -> None:
    page.evaluate("""choose({
        prediction: "Sneaker", confidence: 0.6, known: 1, image: Array(28).fill(Array(28).fill(0)),
        probabilities: { Sneaker: 0.6, Boot: 0.4 },
    })""")
    expect(page.get_by_text("Probably Sneaker, maybe Boot.")).to_be_visible()


@pytest.mark.parametrize("style", STYLES)
def test_nine_of_ten_drawn_digits_are_recognized(page: Page, style: str) -> None:
    predictions = {}
    for digit, strokes in STYLES[style].items():
        draw(page, strokes)
        wait_for_answer(page)
        predictions[digit] = page.locator("#answer").text_content()
        page.get_by_role("button", name="Clear").click()
    assert sum(digit == prediction for digit, prediction in predictions.items()) >= 9, predictions


def test_what_is_no_digit_is_said(page: Page) -> None:
    heart = [(0.5, 0.8), (0.25, 0.5), (0.25, 0.35), (0.38, 0.28), (0.5, 0.4)]
    heart += [(1 - x, y) for x, y in heart[::-1]]
    draw(page, [heart])
    expect(page.get_by_text("That doesn't look like a digit.")).to_be_visible()
    expect(page.locator("#answer")).to_have_text("?")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("That doesn't look like a digit.")).not_to_be_visible()


def test_answer_shows_bars_and_what_the_model_sees(page: Page) -> None:
    draw(page, UPRIGHT["7"])
    expect(page.locator("#answer")).to_have_text("7")
    first = page.locator("#bars li.first")
    expect(first.locator(".name")).to_have_text("7")
    expect(first).to_contain_text(re.compile(r"\d\d\.\d\s?%$"))
    assert page.locator("#bars li").count() == 10
    inked = """document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data
        .filter((value, place) => place % 4 == 0 && value > 128).length"""
    assert 30 < page.evaluate(inked) < 300


def test_undo_removes_a_stroke_and_clear_removes_all(page: Page) -> None:
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    draw(page, [[(0.5, 0.2), (0.5, 0.8)]])
    expect(page.locator("#answer")).to_have_text("1")
    draw(page, UPRIGHT["0"])
    expect(page.locator("#answer")).not_to_have_text("1")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#answer")).to_have_text("1")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#answer")).to_have_text("?")
    expect(page.locator("#hint")).to_be_visible()


def test_undo_brings_back_what_clear_removed(page: Page) -> None:
    draw(page, UPRIGHT["7"])
    expect(page.locator("#answer")).to_have_text("7")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#answer")).to_have_text("?")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#answer")).to_have_text("7")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#answer")).to_have_text("?")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def shrunk(digit: str, left: float) -> list[Stroke]:
    """Returns the strokes of a digit, half as large, starting at a place from the left."""
    return [[(left + x / 2, 0.25 + y / 2) for x, y in stroke] for stroke in UPRIGHT[digit]]


def test_numbers_are_read_with_a_box_for_each_digit(page: Page) -> None:
    draw(page, [*shrunk("4", 0.0), *shrunk("2", 0.3)])
    expect(page.locator("#answer")).to_have_text("42")
    marks = page.locator("#boxes button")
    expect(marks).to_have_count(2)
    assert [marks.nth(i).get_attribute("data-text") for i in range(2)] == ["4", "2"]
    draw(page, shrunk("7", 0.5))  # through no box
    expect(page.locator("#answer")).to_have_text("427")
    page.get_by_role("button", name="Clear").click()
    expect(marks).to_have_count(0)


def test_answer_follows_while_drawing(page: Page) -> None:
    box = page.locator("#pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for y in np.linspace(0.2, 0.8, 20):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + y * box["height"])
        page.wait_for_timeout(20)
    expect(page.locator("#answer")).to_have_text("1")  # the pen is still down
    page.mouse.up()


def test_keyboard_undoes_and_clears(page: Page) -> None:
    draw(page, [[(0.5, 0.2), (0.5, 0.8)]])
    expect(page.locator("#answer")).to_have_text("1")
    draw(page, UPRIGHT["0"])
    expect(page.locator("#answer")).not_to_have_text("1")
    page.keyboard.press("Control+z")
    expect(page.locator("#answer")).to_have_text("1")
    page.keyboard.press("Escape")
    expect(page.locator("#answer")).to_have_text("?")
    draw(page, UPRIGHT["7"])
    expect(page.locator("#answer")).to_have_text("7")
    page.keyboard.press("Delete")
    expect(page.locator("#answer")).to_have_text("?")
    for name in ("undo", "clear", "sample", "choose", "camera"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name


def test_touch_input_draws(browser: Browser, service: Service) -> None:
    with opened(browser, service, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        box = page.locator("#pad").bounding_box()
        assert box is not None
        session = page.context.new_cdp_session(page)
        points = [
            {"x": box["x"] + 0.5 * box["width"], "y": box["y"] + y * box["height"]} for y in np.linspace(0.2, 0.8, 9)
        ]
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points[:1]})
        for point in points[1:]:
            session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(page.locator("#answer")).to_have_text("1")
        assert page.evaluate("scrollY") == 0


def test_digits_of_a_photo_have_boxes(page: Page, mnist_images: UInt8) -> None:
    page.set_input_files("#file", write_photo(mnist_images[:4]))
    expect(page.locator("#boxes button")).to_have_count(4)
    expect(page.locator("#answer")).to_have_text("7210")
    assert [page.locator("#boxes button").nth(i).get_attribute("data-text") for i in range(4)] == list("7210")
    page.locator("#boxes button").nth(1).click()
    expect(page.locator("#bars li.first .name")).to_have_text("2")
    pad, box = page.locator("#pad").bounding_box(), page.locator("#boxes button").first.bounding_box()
    assert pad is not None and box is not None
    assert abs((box["x"] + box["width"] / 2 - pad["x"]) / pad["width"] - 1 / 8) < 0.05
    assert abs((box["y"] + box["height"] / 2 - pad["y"]) / pad["height"] - 1 / 2) < 0.05
    page.keyboard.press("Escape")
    expect(page.locator("#boxes button")).to_have_count(0)


def test_photo_larger_than_the_limit_is_reduced_first(page: Page, mnist_images: UInt8) -> None:
    photo = Image.open(write_photo(mnist_images[:3])).resize((4800, 1600)).convert("RGB")
    noise = np.random.default_rng(0).integers(0, 60, (1600, 4800, 3), "u1")
    Image.fromarray((np.asarray(photo) * 0.8).astype("u1") + noise // 2).save("large.jpg", quality=98)
    assert Path("large.jpg").stat().st_size > 2 * 1024**2
    page.set_input_files("#file", "large.jpg")
    expect(page.locator("#answer")).to_have_text("721")


def test_unusable_file_is_reported(page: Page) -> None:
    Path("text.png").write_text("hello")
    page.set_input_files("#file", "text.png")
    expect(page.locator("#status")).to_have_text("This browser can't show that file. A PNG or JPEG will do.")
    Image.new("L", (100, 100), 255).save("white.png")
    page.set_input_files("#file", "white.png")
    expect(page.locator("#status")).to_contain_text("the image is blank")
    draw(page, UPRIGHT["7"])
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#status")).to_have_text("")


def test_camera_takes_a_photo(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#viewfinder")).to_be_visible()
    expect(page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    with page.expect_response("**/predict?digits=many") as answered:
        page.locator("#take").click()
    assert answered.value.status in (200, 422)
    expect(page.locator("#viewfinder")).to_be_hidden()


def test_nine_of_ten_samples_are_read_right(page: Page) -> None:
    random = """(() => {
        let state = 1;
        Math.random = () => (state = state * 48271 % 2147483647) / 2147483647; // the same in each run
        const draw = drawNumber;
        drawNumber = (text) => draw(pad.dataset.text = text);
    })()"""
    page.evaluate(random)
    results = []
    for _ in range(30):
        page.get_by_role("button", name="Sample").click()
        wait_for_answer(page)
        results.append((page.locator("#pad").get_attribute("data-text"), page.locator("#answer").text_content()))
    assert {len(text or "") for text, _ in results} == {1, 2, 3}
    assert {*"0123456789"} == {*"".join(text or "" for text, _ in results)}
    assert sum(text == answer for text, answer in results) >= 27, results


def test_sample_is_undone_like_own_strokes(page: Page) -> None:
    draw(page, UPRIGHT["7"])
    page.evaluate("drawNumber('14')")
    expect(page.locator("#answer")).to_have_text("14")
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    expect(page.locator("#answer")).to_have_text("1")
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    expect(page.locator("#answer")).to_have_text("7")


PIXELS = """[
    [...seen.getContext("2d").getImageData(0, 0, 28, 28).data],
    [...byId("heat").getContext("2d").getImageData(0, 0, 280, 280).data],
]"""


@pytest.mark.parametrize("digit", ["1", "7"])
def test_why_is_warm_at_the_ink_and_shows_similar_digits(page: Page, digit: str) -> None:
    expect(page.locator("#why")).to_be_hidden()
    draw(page, UPRIGHT[digit])
    expect(page.locator("#answer")).to_have_text(digit)
    expect(page.locator("#reasons")).to_be_hidden()
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#nearest li")).to_have_count(5, timeout=20_000)  # 500 digits are read first
    expect(page.locator("#excuse")).to_be_empty()
    assert page.locator("#nearest").inner_text().split().count(digit) >= 4
    seen, heat = (np.array(pixels).reshape(-1, 4) for pixels in page.evaluate(PIXELS))
    ink = seen[:, 0].reshape(28, 28)
    red, _, blue, _ = heat.reshape(28, 10, 28, 10, 4).mean((1, 3)).transpose(2, 0, 1)
    steps = np.abs(np.indices((28, 28))[:, None] - np.argwhere(ink).T[:, :, None, None])  # from each pixel of ink
    far = steps.max(0).min(0) > 8
    assert far.any()
    assert (red - blue)[ink > 128].mean() > 2 * (red - blue)[ink == 0].mean() > 0
    assert (red - blue)[far].max() < 2
    draw(page, [[(0.2, 0.9), (0.8, 0.9)]])
    expect(page.locator("#reasons")).to_be_hidden()


def test_why_follows_the_chosen_digit_and_closes(page: Page) -> None:
    draw(page, [*shrunk("4", 0.0), *shrunk("7", 0.4)])
    expect(page.locator("#boxes button")).to_have_count(2)
    why = page.get_by_role("button", name="Why?")
    why.click()
    expect(page.locator("#nearest li").first).to_have_text("4")
    page.get_by_role("button", name="7,").click(position={"x": 5, "y": -8})  # at its label
    expect(page.locator("#nearest li").first).to_have_text("7")
    expect(why).to_have_attribute("aria-expanded", "true")
    why.click()
    expect(page.locator("#reasons")).to_be_hidden()
    expect(why).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Escape")
    expect(why).to_be_hidden()


def test_why_needs_mnist_for_similar_digits_and_says_if_it_fails(page: Page) -> None:
    draw(page, UPRIGHT["7"])
    expect(page.locator("#answer")).to_have_text("7")
    page.evaluate("() => { reader.about = async () => ({ dataset: 'EMNISTDigits' }); }")
    why = page.get_by_role("button", name="Why?")
    why.click()
    expect(page.locator("#excuse")).to_be_empty()
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#similar")).to_be_hidden()
    why.click()
    page.evaluate("() => { reader.classify = async () => { throw new Error('secret'); }; }")
    why.click()
    expect(page.locator("#excuse")).to_have_text("The explanation failed. Please try again.")


def test_foot_says_how_often_the_network_is_right(page: Page) -> None:
    line = re.compile(r"^This network reads 99\.\d\d% of MNIST's test images correctly\. mnist_lightning$")
    expect(page.locator("footer")).to_have_text(line)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390)])
def test_paper_answer_and_messages_fit_on_a_phone(browser: Browser, service: Service, width: int, height: int) -> None:
    with opened(browser, service, viewport={"width": width, "height": height}) as page:
        page.evaluate("drawNumber('427')")
        expect(page.locator("#answer")).to_have_text("427")
        for name in ("pad", "answer", "seen", "status", "why", "camera"):
            box = page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= height, name


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_page_fits_any_screen(browser: Browser, service: Service, width: int) -> None:
    with opened(browser, service, viewport={"width": width, "height": 800}) as page:
        draw(page, UPRIGHT["8"])
        expect(page.locator("#answer")).to_have_text("8")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        side_by_side = page.evaluate("document.querySelectorAll('section')[1].getBoundingClientRect().left > 300")
        assert side_by_side == (width > 704)


def test_dark_mode_changes_the_colors_but_not_the_answer(page: Page) -> None:
    draw(page, UPRIGHT["3"])
    expect(page.locator("#answer")).to_have_text("3")
    shown = page.locator("#bars").inner_text()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.keyboard.press("Escape")
    draw(page, UPRIGHT["3"])
    expect(page.locator("#bars")).to_have_text(shown, use_inner_text=True)


def test_every_control_has_an_accessible_name(page: Page) -> None:
    unnamed = """[...document.querySelectorAll('button, input, canvas, section, output, ol, dialog')].filter((part) =>
        !part.getAttribute('aria-label') && !(part.tagName === 'BUTTON' && part.textContent.trim())
    ).map((part) => part.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.locator("#answer").get_attribute("aria-live") == "polite"
    assert page.locator("html").get_attribute("lang") == "en"


def test_page_reports_a_lost_server_and_reconnects(browser: Browser, exported: Path) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        with serve("--model", str(exported)) as service:
            page.goto(f"http://127.0.0.1:{service.port}/")
        draw(page, UPRIGHT["7"])
        expect(page.locator("#status")).to_have_text("The server isn't responding. Retrying…")
        with serve("--model", str(exported), "--port", str(service.port)):
            expect(page.locator("#answer")).to_have_text("7", timeout=10_000)
            expect(page.locator("#status")).to_have_text("")
