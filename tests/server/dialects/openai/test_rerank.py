"""`/rerank` and `/v1/decisions` over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from budmlx import Engine
from budmlx.server.app import HttpServer
from tests.server.tools import Answer, check_error, exchange, post

# What litellm's adapters for Cohere, Jina, Infinity and vLLM send.
SENT: dict[str, Any] = {
    "query": "q",
    "top_n": 1,
    "documents": ["a", "b"],
    "return_documents": True,
}


async def ask(server: HttpServer, path: str, **fields: Any) -> Answer:
    return await exchange(server, post(json.dumps({"model": "demo", **fields}).encode(), path))


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
async def test_what_litellm_sends(engine: Engine, server: HttpServer, path: str) -> None:
    found = (await ask(server, path, **SENT)).json
    [(index, score)] = engine.rerank("q", ["a", "b"], top_n=1).results
    [result] = found["results"]
    assert result["document"] == {"text": SENT["documents"][index]}
    assert result["index"] == index
    assert result["relevance_score"] == pytest.approx(score, abs=1e-4)
    assert found["id"] and found["model"] == engine.info.name
    assert found["usage"]["total_tokens"] > 2


async def test_documents_as_objects(server: HttpServer) -> None:
    texts = (await ask(server, "/rerank", query="q", documents=["a", "b", "c"])).json
    objects = [{"text": "a"}, {"text": "b"}, "c"]
    same = (await ask(server, "/rerank", query="q", documents=objects)).json
    assert len(same["results"]) == 3
    assert all(each.keys() == {"index", "relevance_score"} for each in same["results"])
    assert [each["index"] for each in same["results"]] == [
        each["index"] for each in texts["results"]
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": [5]}, None),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
async def test_what_is_refused(
    server: HttpServer, fields: dict[str, Any], param: str | None
) -> None:
    answer = await ask(server, "/rerank", **fields)
    check_error(answer, 400, **({"param": param} if param else {}))


async def test_a_decision(engine: Engine, server: HttpServer) -> None:
    path = "/v1/decisions"
    found = (await ask(server, path, input="the fox", choices=["yes", "no", "maybe"])).json
    expected = engine.decide("the fox", ["yes", "no", "maybe"])
    assert found["object"] == "decision" and found["choice"] == expected.choice
    for each, choice, odds in zip(
        found["probabilities"], expected.choices, expected.probabilities, strict=True
    ):
        assert each["choice"] == choice
        assert each["probability"] == pytest.approx(odds, abs=1e-4)
    messages = [{"role": "user", "content": "the fox"}]
    same = (await ask(server, path, messages=messages, yes_no=True)).json
    assert [each["choice"] for each in same["probabilities"]] == ["yes", "no"]
    score = (await ask(server, path, input="the fox", score={"min": 1, "max": 5})).json
    assert 1 <= score["score"] <= 5 and len(score["probabilities"]) == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"choices": ["a", "b"]}, "input"),
        ({"input": "x", "messages": [{"role": "user", "content": "x"}], "yes_no": True}, "input"),
        ({"input": "x"}, "choices"),
        ({"input": "x", "choices": ["a", "b"], "yes_no": True}, "yes_no"),
        ({"input": "x", "choices": ["a"]}, "choices"),
        ({"input": "x", "choices": ["a", "a"]}, "choices[1]"),
        ({"input": "x", "score": {"min": 5, "max": 5}}, "score"),
        ({"input": "x", "score": {"min": 0, "max": 9999}}, "score"),
    ],
)
async def test_decisions_that_are_refused(
    server: HttpServer, fields: dict[str, Any], param: str
) -> None:
    check_error(await ask(server, "/v1/decisions", **fields), 400, param=param)
