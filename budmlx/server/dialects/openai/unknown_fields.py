"""Fields that no wire model has: refused, or reported in `warnings`.

A parameter is honoured, refused with 400, or reported in `warnings`. Honoured ones are
fields of the wire models; this module decides about the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from budmlx.errors import InvalidRequestError
from budmlx.server.errors import param_path

Loc = tuple[str | int, ...]
Extra = tuple[Loc, Mapping[str, Any]]
"""Where an object stands in the request, and its fields that nothing here knows."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "safe_prompt": (False,),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "suffix": ("",),
    "grammar_root": (),
    "return_raw_tokens": (False,),
}
"""Parameters that would change the answer, with the values that do not."""

WITHOUT_EFFECT = frozenset(
    {"user", "store", "metadata", "prediction", "prompt_cache_key", "safety_identifier"}
    | {"verbosity", "response_format.json_schema.description", "stream_options.include_obfuscation"}
)
"""Known parameters that change no answer; a warning says that they did nothing."""


def review(extra: Extra, *, strict: bool) -> Iterator[str]:
    """Judge what an object has beyond its wire model: one warning per field without effect.

    Raises InvalidRequestError for a field that would have changed the answer, and for an
    unknown one if `strict`.
    """
    loc, fields = extra
    for name, value in fields.items():
        path = param_path((*loc, name)) or name
        kind = ".".join(str(step) for step in (*loc, name))
        if kind in NEUTRAL:
            if not any(_same(value, neutral) for neutral in NEUTRAL[kind]):
                raise InvalidRequestError(_refusal(path, NEUTRAL[kind]), param=path)
        elif kind in WITHOUT_EFFECT:
            yield f"`{path}` has no effect here."
        elif strict:
            raise InvalidRequestError(f"`{path}` is not a known parameter.", param=path)
        else:
            yield f"`{path}` is not a known parameter and was ignored."


def _refusal(path: str, neutral: tuple[Any, ...]) -> str:
    choices = "".join(f" or set it to {json.dumps(value)}" for value in neutral[:1])
    return f"`{path}` is not supported yet; leave it out{choices}."


def _same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
