"""Rows for the core to generate: their prompts, parameters, grammars and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from budmlx.protocol.reasoning import ReasoningBudget
from budmlx.types import SamplingParams


class PluginCall(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler or logits processor that a row chose.

    core: `package.module:factory`, resolved by the core alone. options: validated, as JSON.
    """

    plugin: str
    name: str
    core: str
    options: dict[str, Any] = {}


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """The grammar of a row's text. source: a grammar in one of llguidance's forms.

    param: the parameter that it came from, for errors.
    """

    source: str
    param: str


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A C-contiguous array as bytes. dtype: a name of numpy's."""

    dtype: str
    shape: list[int]
    data: bytes


class SessionFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with the KV of a prompt without its last token. save: write it, else read it."""

    path: str
    save: bool


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A picture in a prompt.

    start: the first of its `tokens` placeholders, which stand next to each other.
    key: SHA-256, in hexadecimal, of `arrays`, what the encoder of `plugin` gets.
    """

    plugin: str
    start: int
    tokens: int
    key: str
    arrays: dict[str, Tensor]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """One row to run. Ids are already checked against the vocabulary.

    emitted_ids: tokens of this row that a former core already delivered; generation
    continues after them with the random numbers it would have used anyway.
    sampling: the request's parameters. Those that the engine has to resolve have their default
    there, and the result in the fields from `seed` to `processors`.
    seed: always concrete, so that a resumed request draws the same numbers.
    choice: index among the n choices of one request; each draws other numbers.
    max_tokens: counts `emitted_ids` too.
    stop_ids: ids that end the row, the model's own included; the id itself is reported as the
    row's last token.
    min_tokens: no stop id may come before this many tokens.
    sampler: a plugin's, which draws tokens. processors: change the logits before, in this order.
    grammar: of the row's text; it is compiled before the row is queued.
    reasoning: the budget of the row's reasoning; None for as much as it likes.
    fork: rows with the same number here (not 0) have the same prompt and prefill once.
    namespace: rows reuse KV of rows with the same one only.
    owner: an opaque name of the client; waiting rows are started fairly among owners.
    background: it runs only on what rows without this leave.
    images: what the prompt shows, in order.
    checkpoints: places in the prompt up to which others may be the same, ascending; those between
    the first and the last matter less.
    retained: places in the prompt up to which it is kept for so many seconds, before others.
    session: a file to read before the prompt is computed, or to write afterwards.
    adapter: the digest of the adapter that computes it beside the model; empty for none.
    speculation: False keeps it from drafting. Its tokens are the same either way.
    prediction: what is expected of the reply, to be drafted.
    request: the id of its HTTP request, for the log; empty if it has none.
    """

    id: int
    prompt_ids: list[int]
    emitted_ids: list[int] = []
    sampling: SamplingParams
    seed: int
    choice: int = 0
    max_tokens: int
    stop_ids: list[int]
    min_tokens: int = 0
    sampler: PluginCall | None = None
    processors: list[PluginCall] = []
    grammar: Grammar | None = None
    reasoning: ReasoningBudget | None = None
    fork: int = 0
    namespace: str = ""
    owner: str = ""
    background: bool = False
    images: list[Image] = []
    checkpoints: list[int] = []
    retained: list[tuple[int, float]] = []
    session: SessionFile | None = None
    adapter: str = ""
    speculation: bool = True
    prediction: list[int] = []
    request: str = ""


def with_image_keys(ids: Sequence[int], images: Sequence[Image]) -> list[int]:
    """Ids with negative numbers in place of pictures' placeholders: 60 bits of a key in each."""
    keys = list(ids)
    for image in images:
        words = [-1 - int(image.key[at : at + 15], 16) for at in range(0, len(image.key), 15)]
        for place in range(image.tokens):
            keys[image.start + place] = words[place % len(words)]
    return keys
