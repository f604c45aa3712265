"""The page about parameters is complete."""

from __future__ import annotations

from budmlx.server.dialects.openai.chat import ChatRequest
from tests.docs.pages import DOCS
from tests.docs.parameters import parameters

TEXT = (DOCS / "parameters.md").read_text("utf-8")


def test_every_field_of_a_chat_is_on_the_page() -> None:
    assert not [name for name in ChatRequest.model_fields if f"`{name}`" not in TEXT]


def test_a_range_and_a_default_are_those_of_the_declaration() -> None:
    rows = [line.split(" | ")[:3] for line in parameters().splitlines()]
    assert ["| `temperature`", "0 to 2", "1"] in rows
    assert ["| `top_k`", "0 or more", "0"] in rows
    assert ["| `seed`", "64-bit integers", "none"] in rows
    assert ["| `ignore_eos`", "`true`, `false`", "`false`"] in rows
