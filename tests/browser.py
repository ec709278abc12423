"""A headless Chromium, for tests of pages; they skip where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest


class Seen:
    """What a page did that it should not do."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.outside: list[str] = []

    def request(self, url: str) -> None:
        """Note a request that leaves the machine."""
        parts = urlsplit(url)
        if parts.scheme not in {"file", "data"} and parts.hostname != "127.0.0.1":
            self.outside.append(url)


@contextmanager
def open_page(url: str, *, width: int = 1100, dark: bool = False) -> Iterator[tuple[Any, Seen]]:
    """A page in a browser, and what it did."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            scheme = "dark" if dark else "light"
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            seen = Seen()
            page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.on("request", lambda request: seen.request(request.url))
            page.goto(url)
            yield page, seen
        finally:
            browser.close()
