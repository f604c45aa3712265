"""The second view while the server works: what is seen, and what an admin does."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from typing import Any

from tests.page.conftest import ADMIN, KEY, Open
from tests.page.test_safety import ALIVE, axe


def ask(url: str, request_id: str, *, tokens: int = 8000, model: str = "tiny") -> tuple[int, Any]:
    """A request of somebody else: the status, and the body."""
    body = {"model": model, "messages": [{"role": "user", "content": "Go on"}]}
    body |= {"max_tokens": tokens, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {**headers, "X-Request-Id": request_id},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_load_is_seen_while_it_runs_and_is_cancelled(opened: Open, url: str) -> None:
    page = opened(key=ADMIN, path="/#/watch")
    ends: dict[str, tuple[int, Any]] = {}

    def run(name: str) -> None:
        ends[name] = ask(url, name)

    names = ["load-1", "load-2", "load-3"]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    running = page.get_by_role("region", name="Running requests")
    for name in names:
        running.get_by_role("row", name=re.compile(f"{name} .*writes")).wait_for()
    assert int(page.locator(".card", has_text="in flight").locator("strong").inner_text()) == 3
    tokens = page.locator(".card", has_text="Tokens a second").locator("strong")
    page.wait_for_function("e => e.textContent !== '0'", arg=tokens.element_handle())
    plot = page.get_by_role("img", name=re.compile("Rows: running, waiting, now [123] "))
    plot.wait_for()
    for name in names:
        running.get_by_role("row", name=re.compile(name)).get_by_role(
            "button", name="Cancel"
        ).click()
    for thread in threads:
        thread.join()
    for status, body in ends.values():
        assert (status, body["error"]["code"]) == (500, "cancelled")
    page.get_by_text("Nothing is running.").wait_for()
    ended = page.get_by_role("region", name="Requests that ended")
    ended.get_by_role("row", name=re.compile("load-1.*administrator")).wait_for()
    page.locator("#log", has_text="Admin admin-1 from 127.0.0.1: cancel load-1").wait_for()


def test_models_are_loaded_and_unloaded(opened: Open) -> None:
    page = opened(key=ADMIN, path="/#/watch")
    row = page.get_by_role("region", name="Models").get_by_role("row", name=re.compile("^eyes"))
    row.wait_for()
    for _ in range(2):
        if row.get_by_role("button", name="Unload").count():
            row.get_by_role("button", name="Unload").click()
            row.get_by_role("button", name="Load", exact=True).wait_for()
        else:
            row.get_by_role("button", name="Load", exact=True).click()
            row.get_by_role("button", name="Unload").wait_for()
    page.locator("#log", has_text="load eyes").wait_for()


def test_it_needs_an_admin_key(opened: Open, url: str) -> None:
    page = opened(path="/#/watch")
    page.get_by_text("This needs an admin key").wait_for()
    page.get_by_role("button", name="Use another key").click()
    page.get_by_role("dialog").locator("input[type=password]").fill(ADMIN)
    page.keyboard.press("Enter")
    page.get_by_text("Up to date").wait_for()
    for path in ("/v1/watch", "/v1/log"):
        headers = {"Authorization": f"Bearer {KEY}"}
        assert page.request.get(path, headers=headers).status == 403
        assert page.request.get(path).status == 401
    assert page.request.post("/v1/requests/x/cancel").status == 401


def test_what_clients_choose_never_becomes_html(opened: Open, url: str) -> None:
    page = opened(key=ADMIN, path="/health")
    name = "<img src=x onerror=alert(1)>"

    def changed(route: Any) -> None:
        found = route.fetch().json()
        for each in (*found["models"], *found["ended"]):
            each.update({"id": name, "model": name, "reason": name, "path": name, "problem": name})
        route.fulfill(json=found)

    assert ask(url, "one", tokens=2)[0] == 200
    page.route("**/v1/watch", changed)
    page.route(
        "**/v1/log*", lambda route: route.fulfill(json={"lines": [{"number": 1, "text": name}]})
    )
    page.goto("/#/watch")
    page.locator("#log", has_text=name).wait_for()
    page.get_by_role("region", name="Requests that ended").get_by_text(name).first.wait_for()
    assert (
        page.locator("#watch").locator(ALIVE.replace("svg:not(.drawn)", "svg [onload]")).count()
        == 0
    )


def test_axe_finds_nothing(opened: Open, url: str) -> None:
    assert ask(url, "before", tokens=2)[0] == 200
    page = opened(key=ADMIN, path="/#/watch")
    page.get_by_role("region", name="Requests that ended").get_by_text("before").wait_for()
    assert axe(page) == []


def batch(url: str, lines: int = 3, tokens: int = 8000) -> str:
    """A batch of somebody else; its id."""
    body = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": tokens}
    text = "".join(
        json.dumps(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "tiny", "ignore_eos": True, **body},
            }
        )
        + "\n"
        for number in range(lines)
    )
    form = (
        '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n{text}\r\n--x--\r\n"
    )
    file = post(url, "/v1/files", form.encode(), "multipart/form-data; boundary=x")
    asked = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    made = post(url, "/v1/batches", json.dumps(asked).encode(), "application/json")
    return str(made["id"])


def post(url: str, path: str, data: bytes = b"{}", kind: str = "application/json") -> Any:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    request = urllib.request.Request(url + path, data, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_batches_are_seen_and_plots_begin_with_what_was(opened: Open, url: str) -> None:
    name = batch(url)
    page = opened(key=ADMIN, path="/#/watch")
    batches = page.get_by_role("region", name="Batches")
    row = batches.get_by_role("row", name=re.compile(f"{name} .*in progress 0 of 3"))
    row.wait_for()
    running = page.get_by_role("region", name="Running requests")
    running.get_by_role("row", name=re.compile("writes, in the background")).first.wait_for()
    page.wait_for_timeout(2500)
    page.reload()
    page.get_by_text("Up to date").wait_for()
    drawn = page.locator(".plot", has_text="Rows").locator("path.s0")
    assert drawn.get_attribute("d").count("L") >= 2, "the plot began empty"
    post(url, f"/v1/batches/{name}/cancel")
    batches.get_by_text("No batch is running.").wait_for()


def test_stored_replies_are_counted(opened: Open, url: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "The same"}]}
    body |= {"max_tokens": 3, "temperature": 0, "cache": True}
    for _ in range(2):
        post(url, "/v1/chat/completions", json.dumps(body).encode())
    page = opened(key=ADMIN, path="/#/watch")
    stored = page.locator(".card", has_text="Stored replies").locator("strong")
    page.wait_for_function("e => Number(e.textContent) >= 1", arg=stored.element_handle())
    ended = page.get_by_role("region", name="Requests that ended")
    ended.get_by_role("row", name=re.compile("stored reply")).first.wait_for()
