"""A server and a browser for all tests of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.server import ROOT, missing, needed
from tests.server_process import started

KEY = "key-of-somebody"
ADMIN = "key-of-an-admin"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE = {"width": 1200, "height": 800}

KEEP = """for (const [name, value] of Object.entries(%s)) {
  if (value && !localStorage.getItem(name)) localStorage.setItem(name, value);
}"""

Open = Callable[..., Any]
"""Opens the page in a browser of its own: `opened(key=..., settings=..., viewport=...)`."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    python = os.environ.get("BUDMLX_PYTHON", "python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "tests.page.models", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="session")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = str(tmp_path_factory.mktemp("home"))
    environment = {
        **os.environ,
        "BUDMLX_API_KEYS": KEY,
        "BUDMLX_ADMIN_KEY": ADMIN,
        "BUDMLX_PLUGIN": "tests.vision_plugin",
        "BUDMLX_DEVICE": os.environ.get("BUDMLX_DEVICE", "cpu"),
        "HF_HOME": home,
        "HOME": home,
        "XDG_STATE_HOME": home,
        "PYTHONPATH": str(ROOT),
    }
    options = ("--models-dir", str(models), "--port", "0", "--preload", "agent")
    python = os.environ.get("BUDMLX_PYTHON", "python")
    with started(*options, environment=environment, python=python, cwd=ROOT) as (url, _):
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = needed("playwright.sync_api")
    path = os.environ.get("BUDMLX_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if path is None:
        missing("there is no chromium; Debian's package has that name")
    with api.sync_playwright() as playwright:
        # In a container there are no namespaces for its sandbox; it sees our own page alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, url: str) -> Iterator[Open]:
    """Every page that is opened must end without an error in its console."""
    contexts, problems = [], []

    def note(message: Any) -> None:
        # What the test asks for: refusals of the server, and of HTML, which raises an error, too.
        asked = ("the server responded with a status", "requires 'TrustedHTML'")
        if message.type == "error" and not any(each in message.text for each in asked):
            problems.append(message.text)

    def opened(
        *,
        key: str | None = KEY,
        settings: dict[str, Any] | None = None,
        path: str = "/",
        **more: Any,
    ) -> Any:
        options = {"viewport": WIDE, "permissions": ["clipboard-read", "clipboard-write"], **more}
        context = browser.new_context(base_url=url, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        kept = {
            "budmlx.key": key,
            "budmlx.settings": json.dumps({"model": "agent", **(settings or {})}),
        }
        context.add_init_script(KEEP % json.dumps(kept))
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def say(page: Any, text: str) -> None:
    """Write a message and send it."""
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def reply(page: Any, text: str | re.Pattern[str], at: int = -1) -> Any:
    """The reply at a place, once it has that text and is complete."""
    replies = page.locator("article.assistant:not(.writing)")
    found = replies.filter(has_text=text)
    (found.last if at == -1 else found.nth(at)).wait_for()
    return found.last if at == -1 else found.nth(at)
