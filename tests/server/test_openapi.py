"""The OpenAPI document tells what the server does, and the page shows it without the network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import chain
from typing import Any

import jsonschema
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import ROUTES, HttpServer, create_app
from budmlx.server.dialects.registry import DIALECTS
from budmlx.server.openapi import document
from budmlx.server.routes.docs import PAGE
from tests.server.conftest import Start
from tests.server.dialects.openai.test_tool_calls import FORCED
from tests.server.tools import body, check_error, events, exchange, get, post

OTHERS = tuple(chain(*ROUTES))
SPEC: dict[str, Any] = json.loads(document(DIALECTS, OTHERS, needs_key=False))
ENDPOINTS = (*OTHERS, *chain(*(dialect.endpoints for dialect in DIALECTS)))
BODIES = {endpoint.body for endpoint in ENDPOINTS if endpoint.body is not None}


def check(value: Any, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


def test_every_route_is_described(engine: Engine) -> None:
    app = create_app(Models.of(engine, ()), Config())
    described = {
        (method.upper(), path)
        for path, item in SPEC["paths"].items()
        for method in item.keys() & {"get", "post", "delete"}
    }
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    aliases = {
        (method, alias)
        for method, path in described
        if path.startswith("/v1/")
        for alias in (f"/v1{path}", path.removeprefix("/v1"))
    }
    assert routes == described | aliases


def test_every_field_has_a_note() -> None:
    assert len(BODIES) >= 6
    for each in BODIES:
        properties = SPEC["components"]["schemas"][each.__name__]["properties"]
        assert properties.keys() == each.model_fields.keys()
        assert not [name for name, schema in properties.items() if not schema.get("description")]
        assert "ge" not in json.dumps(properties).split('"')


def test_the_document_keeps_the_standard() -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(SPEC)))
    assert references <= SPEC["components"]["schemas"].keys()
    for schema in SPEC["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for item in SPEC["paths"].values():
        for operation in item.values():
            if "responses" in operation:
                assert operation["summary"] and "200" in operation["responses"]
                assert all(int(s) >= 400 for s in operation["responses"].keys() - {"200"})
                assert all(each["description"] for each in operation["responses"].values())


async def test_replies_have_the_shapes_that_it_names(server: HttpServer) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "service_tier": "auto", "cache": True}
    calls = {**FORCED, "max_tokens": 300, "temperature": 1.5, "seed": 3}
    for request in (body(**fields), body(**calls), body(foo=1, n=2)):
        check(request, "ChatRequest")
        whole = await exchange(server, post(json.dumps(request).encode()))
        check(whole.json, "ChatCompletion")
        streamed = json.dumps(request | {"stream": True}).encode()
        *chunks, _ = events((await exchange(server, post(streamed))).content)
        for chunk in chunks:
            check(chunk, "Chunk")
    plain = {"model": "demo", "prompt": ["a", "b"], "logprobs": 2, "max_tokens": 3}
    for path, name, request in (
        ("/v1/completions", "TextCompletion", plain),
        ("/v1/tokenize", "Tokens", {"model": "demo", "prompt": "a"}),
        ("/v1/detokenize", "Text", {"model": "demo", "tokens": [5]}),
        ("/v1/apply_template", "Tokens", body()),
    ):
        answer = await exchange(server, post(json.dumps(request).encode(), path))
        assert answer.status == 200
        check(answer.json, name)
    check((await exchange(server, get("/v1/models"))).json, "ModelList")
    for raw in (get("/nope"), post(b"{"), get("/v1/models/nope")):
        check((await exchange(server, raw)).json, "Error")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop", [""]),
        ("stop", "a" * 257),
        ("cache", "yes"),
        ("cache", {"ttl": 0}),
        ("tools", [{"type": "x", "function": {"name": "f"}}]),
        ("tools", [{"type": "function", "function": {"name": "f g"}}]),
        ("tool_choice", "perhaps"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "choice", "choice": []}),
        ("logit_bias", {"five": 1}),
        ("top_k", -2),
        ("seed", 2**63),
    ],
)
async def test_what_it_refuses_the_server_refuses(
    server: HttpServer, field: str, value: Any
) -> None:
    request = body(**{field: value})
    with pytest.raises(jsonschema.ValidationError):
        check(request, "ChatRequest")
    answer = await exchange(server, post(json.dumps(request).encode()))
    error = check_error(answer, 400)
    assert error["param"].startswith(field)


class Links(HTMLParser):
    """Everything that a page names as elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value or "" for name, value in attrs if name in ("src", "href")}


async def test_the_page_loads_nothing_from_elsewhere(start: Start) -> None:
    server = await start(api_keys=("key",))
    page = await exchange(server, get("/docs"))
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    links = Links()
    links.feed(page.content.decode())
    assert links.found == {"data:,", "openapi.json", "./"}
    assert "://" not in page.content.decode() and "innerHTML" not in page.content.decode()
    spec = await exchange(server, get("/openapi.json"))
    assert (
        spec.json["security"] == [{"key": []}, {"x-api-key": []}]
        and spec.json["paths"] == SPEC["paths"]
    )
    for path in ("/docs", "/openapi.json"):
        check_error(await exchange(server, get(path, Host="evil.example")), 403)
    assert (await exchange(await start(), get("/openapi.json"))).json == SPEC
    examples = re.findall(r'^  "((?:/\w+)+)": \{', PAGE.read_text("utf-8"), re.MULTILINE)
    posts = {path: item["post"] for path, item in SPEC["paths"].items() if "post" in item}
    assert set(examples) == {path for path, post in posts.items() if "requestBody" in post}
