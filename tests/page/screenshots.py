"""Pictures of the page for people: `make screenshots` writes them to a folder."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

from tests.page.conftest import ADMIN, Open, reply, say
from tests.page.test_safety import PHONE
from tests.page.test_watch import ask, batch, post

FOLDER = Path(os.environ.get("BUDMLX_SCREENSHOTS", "screenshots")).absolute()
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def chat(opened: Open, name: str, **options: object) -> None:
    """A conversation with all that can be in one."""
    page = opened(settings={"tools": json.dumps(TOOLS), "other": '{"unheard_of": 1}'}, **options)
    page.screenshot(path=FOLDER / f"{name}-empty.png")
    say(page, "script format; please")
    reply(page, "That was all of it.")
    page.screenshot(path=FOLDER / f"{name}-formatted.png")
    say(page, "script think; please")
    reply(page, "Good day to you!").get_by_text("Reasoning", exact=True).click()
    page.get_by_role("button", name="Regenerate").last.click()
    page.get_by_label("Version 2 of 2").wait_for()
    reply(page, "Good day to you!")
    say(page, "script call; please")
    reply(page, "Calls weather").get_by_text("Calls weather").click()
    page.locator("summary", has_text="prompt tokens").last.click()
    page.locator("#thread").evaluate("box => box.scrollTop = box.scrollHeight")
    page.screenshot(path=FOLDER / f"{name}-more.png")
    page.get_by_role("button", name="Settings of this chat").click()
    page.screenshot(path=FOLDER / f"{name}-settings.png")


def watch(opened: Open, name: str, url: str, **options: object) -> None:
    """The server under load."""
    threads = [threading.Thread(target=ask, args=(url, f"{name}-{n}")) for n in range(3)]
    page = opened(key=ADMIN, path="/#/watch", **options)
    page.get_by_text("Up to date").wait_for()
    for n in range(4):
        ask(url, f"before-{n}", tokens=40)
    lines = batch(url)
    for thread in threads:
        thread.start()
    page.get_by_role("row", name=re.compile("writes")).first.wait_for()
    page.wait_for_timeout(3000)
    page.screenshot(path=FOLDER / f"{name}.png")
    page.get_by_role("region", name="Models", exact=True).scroll_into_view_if_needed()
    page.screenshot(path=FOLDER / f"{name}-tables.png")
    for n in range(3):
        row = page.get_by_role("row", name=re.compile(f"{name}-{n}"))
        row.get_by_role("button", name="Cancel").click()
    for thread in threads:
        thread.join()
    post(url, f"/v1/batches/{lines}/cancel")
    page.locator("#watch").evaluate("box => box.scrollTop = box.scrollHeight")
    page.wait_for_timeout(1500)
    page.screenshot(path=FOLDER / f"{name}-below.png")


def test_screenshots(opened: Open, url: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        chat(opened, f"chat-{scheme}", color_scheme=scheme)
        watch(opened, f"watch-{scheme}", url, color_scheme=scheme)
    chat(opened, "chat-phone", **PHONE)
    watch(opened, "watch-phone", url, **PHONE)
    page = opened(key=None)
    page.get_by_role("dialog", name="API key").wait_for()
    page.screenshot(path=FOLDER / "key.png")
