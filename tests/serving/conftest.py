"""A browser for the tests of the page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
CAMERA = "--disable-sync --no-first-run --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        paths = [shutil.which(name) for name in BROWSERS] + [playwright.chromium.executable_path]
        executable = next((path for path in paths if path and Path(path).exists()), None)
        if executable is None:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop("no browser; install Chromium or Chrome, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=executable, args=[*FLAGS.split(), *CAMERA.split()])
        yield browser
        browser.close()
