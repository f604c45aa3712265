"""Parts of messages as other servers write them: their text, and what is reasoning in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXTS = ("text", "refusal", "input_text", "output_text")
THOUGHTS = ("thinking", "reasoning", "reasoning_text", "summary_text")


@dataclass(frozen=True, slots=True)
class ForeignPart:
    """A part that is of none of the types of this protocol. Both are empty if it has no text."""

    text: str = ""
    thought: str = ""


def foreign_part(part: Mapping[str, Any]) -> ForeignPart:
    """What a part of an unknown type says; reasoning may be a text or a list of texts."""
    kind = part.get("type")
    own = [kind] if kind in (*TEXTS, *THOUGHTS) else []
    for key in (*own, "text", "thinking", "reasoning"):
        text = _text(part.get(key))
        if text:
            return ForeignPart(thought=text) if kind in THOUGHTS else ForeignPart(text)
    return ForeignPart()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(_text(item.get("text")) for item in value if isinstance(item, Mapping))
    return value if isinstance(value, str) else ""
