"""Arguments of earlier calls: JSON objects out of the texts that histories hold instead."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

MAX_LITERAL = 65_536
"""Characters of the longest text that is read as Python writes it."""
MAX_ENCODED = 4
"""How often an object may have been encoded as a text."""

_WORDS = {"true": True, "false": False, "null": None}
_STRING = re.compile(r'"(?:[^"\\]|\\[^u]|\\u[0-9a-fA-F]{4})*("?)')
_HALF_ESCAPE = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# It begins where no word is before it, so that a long one is not tried from each of its letters.
_LAST_WORD = re.compile(r"(?<![\w.+-])[\w.+-]++\Z")


def is_object(text: str) -> bool:
    """Whether the text is a JSON object as it stands."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def object_in(text: str) -> str | None:
    """The JSON text of the object that a text means; None if it means none.

    Encoded several times, written as Python writes it, alone in a list, or `null` for none.
    """
    value: Any = text
    for _ in range(MAX_ENCODED):
        if not isinstance(value, str):
            break
        try:
            value = _read(value) if value.strip() else {}
        except ValueError:
            return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        value = {}
    return _dumped(value) if isinstance(value, dict) else None


def completed(text: str) -> str | None:
    """The JSON text of an object whose end is missing in the text; None if it is not so."""
    if not text.lstrip().startswith("{"):
        return None
    closers: list[str] = []
    place, in_string = 0, False
    for match in re.finditer(r'["{}\[\]]', text):
        if match.start() < place:
            continue
        sign, place, in_string = match[0], match.end(), False
        if sign == '"':
            found = _STRING.match(text, match.start())
            assert found is not None
            place = found.end()
            in_string = not found[1]
        elif sign in "{[":
            closers.append("}" if sign == "{" else "]")
        elif not closers or closers.pop() != sign:
            return None
    if in_string:
        if _HALF_ESCAPE.fullmatch(text, place) is None:
            return None
        text = text[:place]
    end = "".join(reversed(closers))
    for candidate in _ends(text, open_string=in_string):
        if is_object(candidate + end):
            return candidate + end
    return None


def with_whole_characters(text: str) -> str:
    """The text of an object without halves of surrogate pairs, which no tokenizer can write.

    JSON may hold them as escapes, as where a program cuts a text within a character.
    """
    if _SURROGATE.search(text) is None:
        return text
    written = json.dumps(json.loads(text), ensure_ascii=False)
    whole = _whole(written)
    return text if whole == written else whole


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _ends(text: str, *, open_string: bool) -> Iterator[str]:
    """The text with what may be missing before the brackets that close it."""
    if open_string:
        text += '"'
    text = text.rstrip()
    yield text
    yield text.rstrip(",")
    yield text + "null"
    yield text + ": null"
    yield _LAST_WORD.sub("null", text)


def _read(text: str) -> Any:
    """A JSON value, or one that is written as Python or loosely. Raises ValueError."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        if len(text) > MAX_LITERAL:
            raise ValueError("too long") from None
    try:
        return ast.literal_eval(_WithWords().visit(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("neither JSON nor Python") from error


class _WithWords(ast.NodeTransformer):
    """Replaces JSON's words in what is otherwise Python's."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_WORDS[node.id]) if node.id in _WORDS else node


def _dumped(value: Json) -> str | None:
    try:
        return _whole(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return None
