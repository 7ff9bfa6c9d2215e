"""The page in Chromium: from the end of a stroke to the answer, with and without a server: `python -m benchmarks.page`.

With `--film`, it also writes an animation of a number that is drawn, as PNG.
"""

import contextlib
import functools
import io
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Playwright, sync_playwright

from benchmarks import measure
from benchmarks.serving import serve
from mnist_lightning.__main__ import main as run_program

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    " --disable-sync --no-first-run"
)
READ = """async (number) => {
    const milliseconds = [];
    for (let i = 0; i < number; i++) {
        clearAll();
        drawNumber(String(i % 10) + (i % 3 ? String(i * 7 % 10) : ""));
        while (request.isPending) await new Promise((resolve) => setTimeout(resolve, 5));
        const start = performance.now();
        await reader.read(drawing(), true, new AbortController().signal);
        milliseconds.push(performance.now() - start);
    }
    return milliseconds;
}"""
STEPS = 5  # of the mouse between two points of a stroke


def find_browser(playwright: Playwright) -> str | None:
    """Returns the path of a Chromium or Chrome."""
    paths = [shutil.which(name) for name in BROWSERS] + [playwright.chromium.executable_path]
    return next((path for path in paths if path and Path(path).exists()), None)


class Files(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def host(folder: Path) -> Iterator[str]:
    """Serves a folder as any static host does; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def film(page: Page, number: str, path: Path) -> None:
    """Draws a number with the mouse, and writes an animation of that."""
    page.evaluate("text => { drawNumber(text); clearAll(); window.lines = cleared; }", number)
    page.wait_for_timeout(600)  # until the bars have moved
    frames = [page.screenshot()]
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for line in page.evaluate("window.lines"):
        points = [(box["x"] + box["width"] * point["x"], box["y"] + box["height"] * point["y"]) for point in line]
        page.mouse.move(*points[0])
        page.mouse.down()
        for index, point in enumerate(points[1:], 1):
            page.mouse.move(*point, steps=STEPS)
            if index % max(1, len(points) // 4) == 0:
                page.wait_for_timeout(200)
                frames.append(page.screenshot())
        page.mouse.up()
        page.wait_for_timeout(400)
        frames.append(page.screenshot())
    pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    colors = pictures[-1].quantize(128)
    first, *others = [picture.quantize(palette=colors, dither=Image.Dither.NONE) for picture in pictures]
    durations = [600, *[180] * (len(others) - 1), 2500]
    first.save(path, "png", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def main() -> None:
    """Measures both modes."""
    args = measure.parse("From the end of a stroke to the answer", film=Path())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site, model = Path(folder, "site"), Path(folder, "model.onnx")
        run_program(["export", "--ckpt_path", "pretrained", "--web", str(site)])
        run_program(["export", "--ckpt_path", "pretrained", "--output", str(model)])
        with (
            playwright.chromium.launch(executable_path=find_browser(playwright), args=FLAGS.split()) as browser,
            serve("--model", str(model)) as service,
            host(site) as static,
        ):
            for name, url in (("service", f"http://127.0.0.1:{service.port}/"), ("without a server", static)):
                with browser.new_page(viewport={"width": 960, "height": 640}) as page:
                    page.goto(url)
                    page.evaluate(READ, 20)
                    times = page.evaluate(READ, 40 * args.repeats)
                    p50, p99 = np.quantile(times, [0.5, 0.99])
                    rows.append({"page": name, "drawings": len(times), "p50 ms": float(p50), "p99 ms": float(p99)})
                    page.evaluate("clearAll()")
                    if args.film != Path() and name == "service":
                        film(page, "427", args.film)
    measure.report("page", rows, ["page", "drawings", "p50 ms", "p99 ms"], args.output)


if __name__ == "__main__":
    main()
