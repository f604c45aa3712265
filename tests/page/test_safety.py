"""What models, their names and files say never becomes part of the page; access and looks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.server import missing
from tests.page.conftest import Open, reply, say

ALIVE = "script, iframe, img, svg:not(.drawn), style, [onerror], [onload], [href^='javascript']"
NAME = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}


def test_a_reply_never_becomes_html(opened: Open) -> None:
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    say(page, "script attack; please")
    answer = reply(page, "Nothing of this came alive.")
    assert answer.locator(ALIVE).count() == 0
    assert "<script>document.title = 'taken'</script>" in answer.inner_text()
    assert [each.get_attribute("href") for each in answer.locator("a").all()] == [
        "https://evil.example/pixel.png"
    ]
    assert page.title() == "budmlx" and not any("evil" in each for each in asked)


def test_names_and_titles_never_become_html(opened: Open, url: str) -> None:
    page = opened(path="/health")
    model = {"id": NAME, "state": "loaded", "object": "model"}
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [model]}))
    page.goto("/")
    page.locator("option").first.wait_for(state="attached")
    assert page.locator("option").inner_text() == NAME
    say(page, NAME)
    page.locator(".error", has_text="model").wait_for()
    assert page.locator("main").locator(ALIVE).count() == 0
    page.locator(".row", has_text="<img src=x").wait_for()
    assert page.locator("#side").locator(ALIVE).count() == 0
    assert page.title() == "budmlx"


def test_html_in_strings_is_refused(opened: Open) -> None:
    page = opened(key=None)
    code = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return e.name } }"
    assert page.evaluate(code) == "TypeError"


def test_a_phone(opened: Open) -> None:
    page = opened(**PHONE)
    say(page, "script format; please")
    reply(page, "That was all of it.")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert not page.get_by_role("button", name="New chat").is_visible()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What would you like to know?").wait_for()


def test_dark_and_light(opened: Open) -> None:
    shades = []
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        found = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        shades.append(sum(map(int, found.removeprefix("rgb(").removesuffix(")").split(","))))
    assert shades[0] > 700 and shades[1] < 100


def axe(page: Any) -> list[str]:
    """What axe-core finds wrong."""
    path = Path(os.environ.get("BUDMLX_AXE", ""))
    if not path.is_file():
        missing("axe-core is not installed; make test-page installs it with npm")
    page.evaluate(path.read_text("utf-8"))
    found = page.evaluate("() => axe.run()")
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Open, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    assert axe(page) == []
    for script in ("format", "think"):
        say(page, f"script {script}; please")
        page.locator("article.assistant summary", has_text="prompt tokens").last.wait_for()
    page.locator("summary", has_text="prompt tokens").last.click()
    assert axe(page) == []
    page.get_by_role("button", name="Settings of this chat").click()
    assert axe(page) == []


def test_the_order_of_the_keyboard(opened: Open) -> None:
    page = opened()
    page.locator("option").first.wait_for(state="attached")
    names: list[str] = []
    page.locator(".skip").focus()
    while "send" not in names and len(names) < 40:
        page.keyboard.press("Tab")
        names.append(page.evaluate("() => document.activeElement.id"))
    wanted = ["to-chat", "new-chat", "search", "model", "settings", "attach", "say", "send"]
    assert [name for name in names if name in wanted] == wanted


def test_files_and_probes(opened: Open) -> None:
    page = opened(key=None, path="/health")
    assert page.request.get("/", headers={"Accept": "*/*"}).text() == "Ollama is running"
    home = page.request.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert "'unsafe-inline'" not in home.headers["content-security-policy"]
    script = page.request.get("/page/main.js")
    again = page.request.get("/page/main.js", headers={"If-None-Match": script.headers["etag"]})
    assert (script.status, again.status) == (200, 304)
    for name in ("nope.js", "..%2fdocs.html"):
        assert page.request.get(f"/page/{name}").status == 404
    assert json.loads(page.request.get("/page/nope.js").text())["error"]["type"]
