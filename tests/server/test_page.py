"""The page at `/`, as programs get it; `tests/page` has it in a browser."""

from __future__ import annotations

import re

from budmlx.config import Config
from budmlx.server.app import HttpServer, create_loading_app
from budmlx.server.listening import listen
from budmlx.server.loading import LoadingServer
from budmlx.server.routes.page import FOLDER
from tests.server.conftest import Start
from tests.server.tools import check_error, exchange, get

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_browsers_get_the_page_and_others_a_line(start: Start) -> None:
    server = await start(api_keys=("key",))
    for accept in ("", "*/*", "application/json"):
        answer = await exchange(server, get("/", Accept=accept))
        assert (answer.status, answer.content) == (200, b"Ollama is running")
        assert answer.headers["Vary"] == "Accept"
    page = await exchange(server, get("/", Accept=BROWSER))
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.content == (FOLDER / "index.html").read_bytes()
    assert page.headers["Vary"] == "Accept" and page.headers["X-Content-Type-Options"] == "nosniff"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy
    check_error(await exchange(server, get("/", Accept=BROWSER, Host="evil.example")), 403)


async def test_every_file_of_it_needs_no_key_and_is_of_ours(start: Start) -> None:
    server = await start(api_keys=("key",))
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    files = [file for file in FOLDER.iterdir() if file.suffix in kinds]
    assert len(files) > 10
    for file in files:
        answer = await exchange(server, get(f"/page/{file.name}"))
        assert answer.status == 200 and answer.content == file.read_bytes()
        assert answer.headers["Content-Type"].startswith(kinds[file.suffix])
        same = await exchange(
            server, get(f"/page/{file.name}", If_None_Match=answer.headers["ETag"])
        )
        assert (same.status, same.content) == (304, b"")
    for name in ("nope.js", "..%2Fdocs.html", "%2e%2e/docs.html", "__init__.py"):
        answer = await exchange(server, get(f"/page/{name}", Authorization="Bearer key"))
        check_error(answer, 404)


def test_no_text_becomes_html() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text("utf-8")
        found = re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text)
        assert not found and len(text.splitlines()) < 400, file.name
        addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert not addresses, file.name
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", page)


async def test_it_is_there_while_a_model_is_loaded() -> None:
    config = Config(port=0)
    with listen(config) as listening, LoadingServer(listening, create_loading_app(config)):
        page = await exchange(listening, get("/", Accept=BROWSER))
        assert page.status == 200 and b"page/main.js" in page.content
        assert (await exchange(listening, get("/page/main.js"))).status == 200


async def test_head_of_the_address(server: HttpServer) -> None:
    answer = await exchange(server, get("/").replace(b"GET", b"HEAD", 1))
    assert (answer.status, answer.content) == (200, b"")
