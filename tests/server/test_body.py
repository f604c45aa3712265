"""Strict JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.errors import InvalidRequestError
from budmlx.server.body import parse_json

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(text, values), st.booleans())
def test_reads_what_the_standard_library_writes(tree: dict[str, Any], ascii_only: bool) -> None:
    assert parse_json(json.dumps(tree, ensure_ascii=ascii_only).encode()) == tree


@settings(deadline=None)
@given(st.binary() | st.text(alphabet='{}[]",:\\u0d8e1-.NaIfnity ').map(str.encode))
def test_any_bytes_are_an_object_or_an_invalid_request(raw: bytes) -> None:
    try:
        tree = parse_json(raw)
    except InvalidRequestError as exc:
        exc.message.encode()
        (exc.param or "").encode()
    else:
        assert json.loads(raw) == tree


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


# LIMITS 34 to 39 and 40
@pytest.mark.parametrize(
    ("raw", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"[1]", None, "invalid_json"),
        (b"null", None, "invalid_json"),
        (b'"x"', None, "invalid_json"),
        (b"{} x", None, "invalid_json"),
        (b"\xef\xbb\xbf{}", None, "invalid_json"),
        (b'{"a": "\xff"}', None, "invalid_json"),
        (b'{"a": "\xed\xa0\x80"}', None, "invalid_json"),
        (nested(65), None, "body_too_deep"),
        (nested(900), None, "body_too_deep"),
        (b"[" * 100_000, None, "body_too_deep"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "seed", "invalid_json"),
        (b'{"temperature": NaN}', "temperature", "invalid_json"),
        (b'{"a": {"b": [1, -Infinity]}}', "a.b[1]", "invalid_json"),
        (b'{"top_p": 1e999}', "top_p", "invalid_json"),
        (b'{"a": 1, "a": 2}', "a", "invalid_json"),
        (b'{"a": [{"b": 1, "c": 0, "b": 1}]}', "a[0].b", "invalid_json"),
        (b'{"messages": [{"content": "\\ud800"}]}', "messages[0].content", "invalid_json"),
        (b'{"x": {"\\udc00": 1}}', "x.?", "invalid_json"),
    ],
)
def test_refuses(raw: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(raw)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_accepts_the_deepest_nesting_and_odd_but_valid_text() -> None:
    assert parse_json(nested(64))
    odd = "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} \u05d0 \x00 \ufffe"
    assert parse_json(json.dumps({"a": odd}).encode()) == {"a": odd}  # LIMITS 41
