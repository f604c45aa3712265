"""Requests that are made from the OpenAPI document, right ones and wrong ones, get what it says."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.clients.server import KEY, needed

schemathesis = needed("schemathesis")
requests = needed("requests")
standard = needed("schemathesis.specs.openapi.checks")
jsonschema_rs = needed("jsonschema_rs")
CHECKS = [
    needed("schemathesis.checks").not_a_server_error,
    standard.status_code_conformance,
    standard.content_type_conformance,
    standard.response_headers_conformance,
]
EXAMPLES = 60
GENERATING = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
)
"""One of each dialect at least, and all of OpenAI's."""
STREAMS = ("text/event-stream", "application/x-ndjson")


@pytest.fixture(scope="module")
def session(url: str) -> Iterator[Any]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        yield session


@pytest.fixture(scope="module")
def document(url: str, session: Any) -> Any:
    return session.get(f"{url}/openapi.json").json()


def operations_of(document: Any) -> list[Any]:
    """All operations of a document."""
    schema = schemathesis.openapi.from_dict(document)
    # Its own limits would cut a long stream of ours, and a slow machine's.
    schema.config.max_stream_events = 100_000
    return [result.ok() for result in schema.get_all_operations()]


def check_events(document: Any, path: str, kind: str, text: str) -> None:
    """A stream is what `x-event` says: schemathesis would want its schema to be of one event."""
    responses = document["paths"][path]["post"]["responses"]
    schemas = {"components": document["components"]}
    event = jsonschema_rs.validator_for({**responses["200"]["content"][kind]["x-event"], **schemas})
    refused = responses["400"]["content"]["application/json"]["schema"]
    error = jsonschema_rs.validator_for({**refused, **schemas})
    lines = text.rstrip("\n").split("\n")
    if kind == "text/event-stream":
        lines = [line[6:] for line in lines if line.startswith("data: ")]
    *parts, last = lines
    for part in parts:
        event.validate(json.loads(part))
    if last != "[DONE]" and not event.is_valid(json.loads(last)):
        error.validate(json.loads(last))


def known(ids: Any) -> Any:
    """Token ids within the vocabulary, of which the document knows nothing."""
    if isinstance(ids, list):
        return [known(each) for each in ids]
    return ids % 4096 if type(ids) is int and ids >= 0 else ids


def shortened(body: Any) -> Any:
    """Replies up to the context's end are valid, but hundreds of them take too long."""
    if isinstance(body, dict):
        for name in ("prompt", "tokens"):
            if name in body:
                body[name] = known(body[name])
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            value = body.get(name)
            if value is None or (isinstance(value, int | float) and value > 3):
                body[name] = 3
        options = body.get("options")
        if isinstance(options, dict) and options.get("num_predict", -1) not in (1, 2):
            options["num_predict"] = 3
    return body


def statuses_of(url: str, session: Any, document: Any, operation: Any, mode: str) -> Counter[int]:
    """How often each status was the answer. Fails at one that is not declared."""
    found: Counter[int] = Counter()
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

    @settings(
        max_examples=EXAMPLES if operation.body else 5,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def check(case: Any) -> None:
        case.body = shortened(case.body)
        response = case.call(base_url=url, session=session, timeout=300)
        found[response.status_code] += 1
        [kind] = response.headers.get("content-type", [""])
        kind = kind.partition(";")[0]
        if kind in STREAMS:
            case.validate_response(response, checks=CHECKS)
            check_events(document, operation.path, kind, response.content.decode())
        else:
            whole = [*CHECKS, standard.response_schema_conformance]
            case.validate_response(response, checks=whole)

    check()
    return found


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.timeout(600)
def test_answers(url: str, session: Any, document: Any, mode: str) -> None:
    asked = [each for each in operations_of(document) if mode == "POSITIVE" or each.body]
    found = {each.label: statuses_of(url, session, document, each, mode) for each in asked}
    print(found)
    # Every route is in the document; the server's own tests see to that.
    every = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item.keys() & {"get", "post", "delete"}
        if mode == "POSITIVE" or "requestBody" in item[method]
    }
    assert found.keys() == every
    for path in GENERATING:
        assert found[f"POST {path}"][200 if mode == "POSITIVE" else 400] > EXAMPLES // 10, path


@pytest.mark.parametrize(
    ("status", "schema"), [("200", {"required": ["nowhere"]}), ("418", {"type": "object"})]
)
def test_a_wrong_document_is_noticed(
    url: str, session: Any, document: Any, status: str, schema: Any
) -> None:
    wrong = copy.deepcopy(document)
    answers = wrong["paths"]["/v1/models"]["get"]["responses"]
    answers[status] = answers.pop("200")
    answers[status]["content"]["application/json"]["schema"] = schema
    [operation] = [each for each in operations_of(wrong) if each.label == "GET /v1/models"]
    with pytest.raises((BaseExceptionGroup, AssertionError)):
        statuses_of(url, session, wrong, operation, "POSITIVE")
