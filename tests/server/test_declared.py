"""Sampling parameters on the wire have the types, ranges and sentences of their declarations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from budmlx.server.declared import SCALARS
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.server.dialects.openai.completions import CompletionRequest
from budmlx.types import PARAMETERS, RANGES
from tests.parameters import DEFAULTS, all_given
from tests.server.tools import body

OWN_RANGE = {"top_k", "seed", "max_tokens"}
"""Have another range on the wire, or write it in another way."""


def numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that is a number."""
    kinds = [schema, *schema.get("anyOf", ())]
    (found,) = [kind for kind in kinds if kind.get("type") in ("number", "integer")]
    return found


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_the_wire_says_what_the_declaration_says(
    model: type[ChatRequest] | type[CompletionRequest],
) -> None:
    properties = model.model_json_schema()["properties"]
    for name, param in PARAMETERS.items():
        if name != "logprobs":
            assert properties[name]["description"].startswith(param.sentence)
    for name in RANGES.keys() - OWN_RANGE - {"logprobs"}:
        schema = numbers(properties[name])
        # What a type with a validator of its own calls its bounds.
        bounds = (schema.get("minimum", schema.get("ge")), schema.get("maximum", schema.get("le")))
        assert bounds == RANGES[name]
        assert properties[name].get("default") == getattr(DEFAULTS, name)


def test_every_parameter_of_the_wire_reaches_the_sampling_parameters() -> None:
    plain = body(temperature=None, max_tokens=None)
    assert ChatRequest.parse(plain).to_request().sampling == DEFAULTS
    values = all_given(
        logprobs=True, logit_bias={"5": -100}, stop="x", stop_token_ids=[1],
        sampler={"name": "a", "b": 1}, logits_processors=[{"name": "c"}],
    )  # fmt: skip
    assert values.keys() == PARAMETERS.keys()
    made = ChatRequest.parse(body(**values, top_logprobs=20)).to_request().sampling
    for name in SCALARS:
        assert getattr(made, name) == (20 if name == "logprobs" else values[name]), name
    assert not [
        field.name for field in fields(made) if getattr(made, field.name) == field.default
    ], "a parameter got lost"
