"""A browser for the tests of the page."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from benchmarks.page import FLAGS, find_browser

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")  # while it runs, no other test can run an event loop
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        executable = find_browser(playwright)
        if executable is None:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop("no browser; install Chromium or Chrome, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=executable, args=[*FLAGS.split(), *CAMERA])
        yield browser
        browser.close()
