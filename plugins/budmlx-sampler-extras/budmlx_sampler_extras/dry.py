"""The DRY penalty on tokens that would prolong a repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.plugins.specs import RowContext
from budmlx_sampler_extras import MAX_BREAKERS

State = dict[str, mx.array]

# A longer repetition counts as one of so many tokens, lest the penalty overflows.
LONGEST = 50


class Dry:
    """Penalises tokens by how long a repetition they would prolong.

    p-e-w, "DRY: A modern repetition penalty that reliably prevents looping",
    text-generation-webui pull request 5677, 2024.

    The token that was just fed is still being computed on the device. Waiting for it would
    stop the pipeline, so repetitions are looked up for whatever it may turn out to be, and
    the device picks those that apply. The options are read back only when rows have come
    or gone.
    """

    def init(self, options: Mapping[str, Any]) -> State:
        """See `LogitsProcessor`."""
        breakers = sorted(set(options["sequence_breakers"]))
        breakers += [-1] * (MAX_BREAKERS - len(breakers))  # no token has this id
        return {
            "multiplier": mx.array([options["multiplier"]], dtype=mx.float32),
            "base": mx.array([options["base"]], dtype=mx.float32),
            "allowed": mx.array([options["allowed_length"]]),
            "window": mx.array([options["last_n"]]),
            "breakers": mx.array([breakers]),
        }

    def process(
        self, logits: mx.array, state: State, context: RowContext
    ) -> tuple[mx.array, State]:
        """See `LogitsProcessor`."""
        given = (np.array(state[name]) for name in ("window", "breakers", "allowed"))
        found = [
            repetitions(_recent(history, window), breakers, shortest)
            for history, window, breakers, shortest in zip(context.history, *given, strict=True)
        ]
        if not any(len(table) for table in found):
            return logits, state
        rows = mx.array(np.repeat(np.arange(len(found)), [len(table) for table in found]))
        last, following, lengths = (mx.array(column) for column in np.concatenate(found).T)
        growth = state["base"][rows] ** (lengths - state["allowed"][rows])
        penalties = state["multiplier"][rows] * growth * (context.last[rows] == last)
        return logits - mx.zeros(logits.shape).at[rows, following].maximum(penalties), state


def _recent(history: Sequence[int], window: int) -> np.ndarray:
    """The tokens of the window, without the one in flight."""
    start = max(0, len(history) - window + 1) if window else 0
    return np.array(history[start:], dtype=np.int32)


def repetitions(tokens: np.ndarray, breakers: np.ndarray, shortest: int) -> np.ndarray:
    """What would be repeated: rows of (last, following, length), int32.

    If `last` comes after `tokens`, their end is a repetition of `length` tokens that
    `following` would prolong. The time is linear in the number of tokens, of which most
    are looked at once.
    """
    if not len(tokens):
        return np.empty((0, 3), dtype=np.int32)
    # The last token may repeat itself: what follows it then is the token in flight.
    following = np.append(tokens[1:], tokens[-1])
    breaks = np.isin(tokens, breakers)
    places = np.flatnonzero(~breaks & ~np.isin(following, breakers))
    unbroken = len(tokens) if not breaks.any() else int(np.argmax(breaks[::-1]))
    lengths = np.ones(len(tokens), dtype=np.int32)
    matching = places
    for back in range(1, min(unbroken, LONGEST - 1) + 1):
        matching = matching[matching >= back]
        matching = matching[tokens[matching - back] == tokens[-back]]
        if not len(matching):
            break
        lengths[matching] = back + 1
    places = places[lengths[places] >= shortest]
    return np.stack([tokens[places], following[places], lengths[places]], axis=1)
