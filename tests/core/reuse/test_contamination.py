"""Marked conversations with shared beginnings: no row ever sees a marker of another."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import ArraysCache, KVCache

from tests.core.driver import load, request
from tests.core.reuse.test_blocks import Reusing
from tests.core.reuse.test_checkpoints import Resuming
from tests.measured import Measured

# Ids from here on are markers; below are words that everybody uses.
FIRST_MARKER = 300
FOREIGN = 1


class Witness(nn.Module):
    """Repeats the marker that its cache holds; says FOREIGN if it holds several, or none."""

    def __init__(self, layers: list[Any]):
        super().__init__()
        self.layers = layers

    def make_cache(self) -> list[Any]:
        return [KVCache()]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        return (mx.arange(512) == self.seen(tokens, cache)[..., None]).astype(mx.float32)

    def seen(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """What to say after each token: [rows, tokens]."""
        mask = create_attention_mask(tokens, cache[0], return_array=True)
        seen = tokens.astype(mx.float32)[:, None, :, None]
        keys, values = cache[0].update_and_fetch(seen, -seen)
        keys, values = keys[:, 0, None, :, 0], values[:, 0, None, :, 0]
        marks = (keys >= FIRST_MARKER) & (values <= -FIRST_MARKER)
        if mask is not None:
            marks = marks & (mask if mask.ndim == 2 else mask[:, 0])
        most = mx.where(marks, keys, -1).max(-1)
        least = mx.where(marks, -values, 10**6).min(-1)
        # Each row of a batch of any length.
        answer = mx.where(most == least, most, FOREIGN).astype(mx.int32)
        return mx.broadcast_to(answer, tokens.shape)


class RecurrentWitness(Witness):
    """Keeps the markers in a recurrent state, too; says FOREIGN if that tells another one."""

    def make_cache(self) -> list[Any]:
        return [KVCache(), ArraysCache(1)]

    def seen(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        numbers = tokens.astype(mx.float32)
        marks = numbers >= FIRST_MARKER
        new = mx.stack([mx.where(marks, numbers, 0), mx.where(marks, -numbers, -(10**6))], -1)
        state = cache[1][0]
        if state is not None:
            new = mx.concatenate([state, new], 1)
        highest = mx.cummax(new, axis=1)[:, -tokens.shape[1] :]
        cache[1][0] = highest[:, -1:]
        told = mx.where(highest[..., 0] == -highest[..., 1], highest[..., 0], FOREIGN)
        answer = super().seen(tokens, cache)
        return mx.where(answer == told, answer, FOREIGN).astype(mx.int32)


@pytest.mark.parametrize(
    "requests",
    [600, pytest.param(1500, marks=pytest.mark.long), pytest.param(5000, marks=pytest.mark.soak)],
)
def test_no_row_sees_what_another_wrote(requests: int, measured: Measured) -> None:
    model = load()
    witness = Witness(list(model.module.layers))
    model = replace(model, module=witness, new_cache=witness.make_cache)
    # The memory of the real model's layers is projected; the witness needs less.
    driver = Reusing(model, limit=60_000, block=16, prefill_chunk=64, max_rows=24)
    hits = converse(driver, requests, 60_000)
    measured("L4", f"{requests} requests, {hits} of which reused KV: 0 foreign marks")
    driver.at_rest()


@pytest.mark.parametrize("requests", [250, pytest.param(5000, marks=pytest.mark.soak)])
def test_no_row_goes_on_from_a_state_of_another(requests: int) -> None:
    model = load()
    witness = RecurrentWitness(list(model.module.layers))
    info = replace(model.info, needs_checkpoints=True)
    model = replace(model, module=witness, new_cache=witness.make_cache, info=info, paddable=False)
    # Whole states are large: there must be room for some of every conversation's.
    limit = 800 * requests
    converse(Resuming(model, limit=limit), requests, limit)


def converse(driver: Reusing | Resuming, requests: int, limit: int) -> int:
    """Ask so much, and check what was said; how many rows reused KV."""
    rng = random.Random(11)
    stems = [[rng.randrange(3, FIRST_MARKER) for _ in range(n)] for n in (15, 16, 40, 90, 150)]
    conversations: dict[int, tuple[str, list[int]]] = {}
    markers: dict[int, int] = {}
    cancelled: set[int] = set()
    for key in range(requests):
        marker = rng.randrange(FIRST_MARKER, min(FIRST_MARKER + requests // 7, 512))
        space, begun = conversations.get(marker, (rng.choice("abc"), list(rng.choice(stems))))
        prompt = [*begun, marker, *(rng.randrange(3, FIRST_MARKER) for _ in range(key % 9))]
        conversations[marker] = (space, prompt if len(prompt) < 400 else prompt[:40])
        fork = key + 1 if rng.random() < 0.1 else 0
        for row_id in (2 * key, 2 * key + 1)[: 1 + bool(fork)]:
            markers[row_id] = marker
            length = rng.randrange(1, 12)
            fields = {"max_tokens": length, "namespace": space, "fork": fork}
            driver.submit(request(row_id, prompt, checkpoints=[len(begun)], **fields))
        driver.turns(rng.randrange(4))
        live = sorted(driver.tokens.keys() - driver.reasons.keys() - cancelled)
        if live and rng.random() < 0.3:
            cancelled.add(row_id := rng.choice(live))
            driver.scheduler.cancel(row_id)
        if rng.random() < 0.1:
            driver.reuse.resize(rng.randrange(limit))
    driver.run()
    assert not driver.failed
    for row_id, marker in markers.items():
        assert set(driver.tokens[row_id]) <= {marker}, row_id
        assert driver.tokens[row_id] or row_id in cancelled
    hits = [row_id for row_id, count in driver.cached.items() if count]
    assert len(hits) > requests / 3, "too few hits to prove anything"
    return len(hits)
