"""Addresses, Host and Origin headers, keys, request ids."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import logging
import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError
from budmlx.server import keys as server_keys
from budmlx.server.app import HttpServer, create_app
from budmlx.server.security import OPEN_ROUTES, check_bind
from tests.server.conftest import Start
from tests.server.tools import TYPES, Answer, check_error, exchange, get, post

KEYS = (SecretStr("first-key"), SecretStr("zweiter-key"))


# LIMITS 11 and 12
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("extra.local", True),
        ("localhost.", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("2130706433", False),
        ("0.0.0.0", False),
        ("127.0.0.2", False),
        ("localhost@evil.example", False),
        ("localhost:99999999", False),
    ],
)
async def test_hosts(start: Start, host: str, allowed: bool) -> None:
    server = await start(allow_host=("Extra.local",))
    answer = await exchange(server, get("/health", Host=host))
    if allowed:
        assert answer.status == 200
    else:
        check_error(answer, 403, code="host_not_allowed")


async def test_an_absolute_target_does_not_replace_the_host_header(server: HttpServer) -> None:
    raw = get("/health", Host="evil.example").replace(b"/health", b"http://localhost/health", 1)
    check_error(await exchange(server, raw), 403, code="host_not_allowed")


async def test_a_wildcard_address_is_no_host_name(start: Start) -> None:
    server = await start(host="0.0.0.0", api_keys=KEYS)
    assert (await exchange(server, get("/health", Host="127.0.0.1"))).status == 200
    answer = await exchange(server, get("/health", Host="0.0.0.0"))
    check_error(answer, 403, code="host_not_allowed")


def has_address(host: str) -> bool:
    with socket.socket() as bound:
        try:
            bound.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True


@pytest.mark.skipif(not has_address("127.0.0.2"), reason="as on a Mac, there is no 127.0.0.2")
async def test_the_bound_address_is_a_host_name(start: Start) -> None:
    server = await start(host="127.0.0.2")
    raw = get("/health", Host=f"127.0.0.2:{server.port}")
    assert (await exchange(server, raw, host="127.0.0.2")).status == 200


# LIMITS 13 to 15
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("https://localhost", True),
        ("http://localhost:3000", False),
        ("http://127.0.0.1", False),
        ("http://localhost.evil.com", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
async def test_origins(server: HttpServer, origin: str, allowed: bool) -> None:
    answer = await exchange(server, get("/health", Origin=origin))
    assert "Access-Control-Allow-Origin" not in answer.headers
    if allowed:
        assert answer.status == 200
    else:
        check_error(answer, 403, code="origin_not_allowed")
        assert answer.headers["Vary"] == "Origin" and "--allow-origin" in json.dumps(answer.json)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("HTTP://LocalHost:3000", True),
        ("http://localhost", True),
        ("app://obsidian.md", True),
        ("vscode-webview://0abc1def", True),
        ("https://ui.example", True),
        ("https://ui.example:8443", False),
        ("http://ui.example", False),
        ("http://localhost:3001", False),
        ("http://localhost:3000.evil.example", False),
        ("app://evil.example", False),
        ("vscode-webview:", False),
        ("null", False),
    ],
)
async def test_allowed_origins(start: Start, origin: str, allowed: bool) -> None:
    names = ("http://LOCALHOST:3000/", "app://obsidian.md", "vscode-webview://*")
    server = await start(allow_origin=(*names, "https://ui.example:443"), api_keys=KEYS)
    foreign = origin if origin != "http://localhost" else None
    for target, status in (("/health", 200), ("/v1/models", 401), ("/nope", 401)):
        answer = await exchange(server, get(target, Origin=origin))
        assert answer.status == (status if allowed else 403)
        assert answer.headers.get("Access-Control-Allow-Origin") == (foreign if allowed else None)
    asked = get(
        "/v1/chat/completions",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization,content-type",
        Access_Control_Request_Private_Network="true",
    ).replace(b"GET", b"OPTIONS", 1)
    answer = await exchange(server, asked)
    if allowed and foreign:
        methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
        # Routes of plugins may have any method.
        assert answer.status == 204 and {"GET", "POST", "PUT", "PATCH", "DELETE"} <= {*methods}
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
        assert answer.headers["Vary"] == "Origin"
    else:
        assert answer.status in (401, 403)
        assert "Access-Control-Allow-Methods" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "http://*", "localhost:3000", "http://a/b", "null", "://x"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="allow_origin"):
        Config.of(allow_origin=(origin,))


async def test_foreign_preflight(server: HttpServer) -> None:
    raw = get(
        "/v1/chat/completions",
        Origin="http://evil.example",
        Access_Control_Request_Method="POST",
    ).replace(b"GET", b"OPTIONS", 1)
    answer = await exchange(server, raw)
    check_error(answer, 403)
    assert "Access-Control-Allow-Origin" not in answer.headers


def check_refusal(answer: Answer, status: int, path: str) -> None:
    """Assert that a response is an error in the dialect of a path."""
    if path.startswith("/api/"):
        assert answer.status == status and answer.json.keys() == {"error"}
        return
    if "/messages" not in path:
        check_error(answer, status, code="invalid_api_key")
        return
    assert answer.status == status and answer.json["type"] == "error"
    assert answer.json["error"]["type"] == TYPES[status]


async def test_every_route_needs_a_key(engine: Engine, start: Start) -> None:  # LIMITS 29
    app = create_app(Models.of(engine, ()), Config(api_keys=KEYS))
    routes = {(route.method, route.resource.canonical) for route in app.router.routes()}
    assert ("POST", "/v1/chat/completions") in routes and len(routes) > 5
    server = await start(api_keys=KEYS)
    for method, path in routes:
        target = path.replace("{id}", "demo").replace("{file}", "main.js")
        raw = post(b"{}", target).replace(b"POST", method.encode(), 1)
        answer = await exchange(server, raw)
        if path in OPEN_ROUTES:
            assert answer.status == 200
        elif method == "HEAD":
            assert answer.status == 401
        else:
            check_refusal(answer, 401, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/nope", "/health/x", "//health", "/v1/models/../../health"):
        check_error(await exchange(server, get(path)), 401)


# LIMITS 28
@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer first-keyx",
        "Bearer first-key, Bearer first-key",
        "Bearer " + "x" * 8000,
        "Bearer ключ",
        "Basic first-key",
        "first-key",
    ],
)
async def test_wrong_keys(start: Start, header: str, caplog: pytest.LogCaptureFixture) -> None:
    server = await start(api_keys=KEYS)
    with caplog.at_level(logging.DEBUG):
        answer = await exchange(server, get("/v1/models", Authorization=header))
    error = check_error(answer, 401)
    assert error["message"] == "Send a valid API key as 'Authorization: Bearer KEY'."
    assert "first-key" not in caplog.text  # LIMITS 33


async def test_two_authorization_headers(start: Start) -> None:
    server = await start(api_keys=KEYS)
    raw = get("/v1/models", Authorization="Bearer first-key\r\nAuthorization: Bearer first-key")
    check_error(await exchange(server, raw), 401)


async def test_right_keys(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\nfrom-file\n")
    server = await start(api_keys=KEYS, api_key_file=file)
    for key in ("first-key", "zweiter-key", "from-file"):
        for scheme in ("Bearer", "bearer"):
            raw = get("/v1/models", Authorization=f"{scheme} {key}")
            assert (await exchange(server, raw)).status == 200


def test_keys_are_compared_in_constant_time() -> None:  # LIMITS 31
    tree = ast.parse(inspect.getsource(server_keys._matching))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "hmac.compare_digest" in calls
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
    assert not any("key" in ast.unparse(n) or "digest" in ast.unparse(n) for n in compared)


# LIMITS 32
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
async def test_other_machines_need_a_key(engine: Engine, host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        await HttpServer.start(Models.of(engine, ()), Config(host=host, port=0))
    check_bind(Config(host=host, api_keys=KEYS))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    check_bind(Config(host=host))


def test_unknown_address() -> None:
    with pytest.raises(ConfigError, match="Cannot find"):
        check_bind(Config(host="no-such-host.invalid"))


# LIMITS 67
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-123_X.y", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("http://x/", False),
        ("a b", False),
        ("ümlaut", False),
    ],
)
async def test_request_ids(server: HttpServer, given: str, kept: bool) -> None:
    for path in ("/health", "/nope"):
        answer = await exchange(server, get(path, X_Request_Id=given))
        assert answer.headers.get_all("X-Request-Id") != []
        assert (answer.headers["X-Request-Id"] == given) is kept


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"X_Forwarded_For": "10.0.0.1"}, False),
        ({"X_Forwarded_For": "127.0.0.1, 10.0.0.1"}, False),
        ({"X_Forwarded_For": "2001:db8::1"}, False),
        ({"X_Forwarded_For": "unknown"}, False),
        ({"X_Real_IP": "10.0.0.1"}, False),
        ({"X_Forwarded_For": "127.0.0.1, ::1"}, True),
        ({"X_Forwarded_For": "[::1]"}, True),
        ({"X_Forwarded_For": "::ffff:127.0.0.1"}, True),
        ({"X_Forwarded_For": ""}, True),
    ],
)
async def test_behind_a_proxy_keys_are_required(
    start: Start, headers: dict[str, str], allowed: bool
) -> None:
    server = await start()
    answer = await exchange(server, get("/v1/models", **headers))
    if allowed:
        assert answer.status == 200
    else:
        check_error(answer, 403, code="key_required")
    assert (await exchange(server, get("/ready", **headers))).status == 200
    keyed = await start(api_keys=KEYS)
    authorization = {"Authorization": "Bearer first-key"}
    assert (await exchange(keyed, get("/v1/models", **headers, **authorization))).status == 200
