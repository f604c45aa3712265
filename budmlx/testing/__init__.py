"""Test tools for authors of plugins: a tiny model and engines as fixtures, and contract checks.

Put `pytest_plugins = ["budmlx.testing"]` into your `conftest.py`. Each `check_` function
raises an AssertionError that says which promise of `budmlx.plugins.specs` is broken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from budmlx.engine.engine import Engine
from budmlx.plugins.discovery import import_target
from budmlx.plugins.specs import (
    CacheStats,
    EndText,
    LogitsProcessorSpec,
    MessageTransform,
    OutputFilterFactory,
    ResponseCache,
    RowContext,
    SamplerSpec,
)
from budmlx.testing.parsers import check_reasoning_parser as check_reasoning_parser
from budmlx.testing.parsers import check_tool_parser as check_tool_parser
from budmlx.testing.parsers import require as _require
from budmlx.testing.rows import VOCAB, check_rows, option_sets
from budmlx.testing.tiny_random import write_random_model
from budmlx.testing.vision import check_vision_encoder as check_vision_encoder
from budmlx.testing.vision import check_vision_preprocessor as check_vision_preprocessor
from budmlx.types import Message, TextPart

OpenEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model with random weights that answers in milliseconds."""
    return write_random_model(tmp_path_factory.mktemp("budmlx") / "tiny", scale=2.0)


@pytest.fixture
def open_engine(tiny_model: Path) -> Iterator[OpenEngine]:
    """Loads engines: `open_engine(plugins=[my_plugin], **settings)`; closes them at the end."""
    engines: list[Engine] = []

    def load(**settings: Any) -> Engine:
        engines.append(Engine.load(tiny_model, **settings))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


# Response caches


def check_response_cache(cache: ResponseCache) -> None:
    """Use an empty cache of at least 100 kB as an engine would, then close it."""
    _require(isinstance(cache, ResponseCache), "it lacks a method of ResponseCache")
    _require(cache.get("0" * 64) is None, "an empty cache has an answer")
    values = {f"{n:064x}": bytes(range(256)) * n for n in range(8)}
    for key, value in values.items():
        cache.set(key, value, None)
    for key, value in values.items():
        _require(cache.get(key) == value, "a value did not come back as it was")
    key = f"{1:064x}"
    cache.set(key, b"other", None)
    _require(cache.get(key) == b"other", "a second value did not replace the first")
    cache.set(key, b"short", 0.01)
    deadline = time.monotonic() + 5
    while cache.get(key) is not None:
        _require(time.monotonic() < deadline, "a value outlived its ttl")
    stats = cache.stats()
    _require(isinstance(stats, CacheStats) and stats.entries >= 7, "stats() does not count")
    cache.delete(f"{2:064x}")
    cache.delete("f" * 64)
    _require(cache.get(f"{2:064x}") is None, "a deleted value is still there")
    _check_other_thread(cache)
    cache.clear()
    _require(cache.get(f"{3:064x}") is None, "a cleared cache has an answer")
    _require(cache.stats().entries == 0, "a cleared cache has entries")
    cache.close()


def _check_other_thread(cache: ResponseCache) -> None:
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(cache.get(f"{3:064x}")))
    thread.start()
    thread.join()
    _require(found == [bytes(range(256)) * 3], "it does not work on another thread")


# Samplers and logits processors


def check_sampler(spec: SamplerSpec, *others: Mapping[str, Any], **options: Any) -> None:
    """Check that rows are independent: alone, in a batch, and as others come and go.

    options: as a request would give them. others: further options, for other rows of the batch;
    without any, the default options are tried beside if there are any.
    """
    sampler = import_target(spec.core)()
    sets = option_sets(spec, options, others)
    keys = mx.random.split(mx.random.key(7), len(sets))

    def step(logits: mx.array, state: Any, context: RowContext, rows: Sequence[int]) -> Any:
        ids, state = sampler.sample(logits, state, context, keys[mx.array(list(rows))])
        _require(tuple(ids.shape) == (len(rows),), f"ids have the shape {ids.shape}")
        _require(mx.issubdtype(ids.dtype, mx.integer), f"ids are {ids.dtype}")
        _require(bool(((ids >= 0) & (ids < VOCAB)).all()), "an id is outside the vocabulary")
        return ids, state

    check_rows(sampler, step, sets)


def check_logits_processor(
    spec: LogitsProcessorSpec, *others: Mapping[str, Any], **options: Any
) -> None:
    """Like `check_sampler`, for a logits processor."""
    processor = import_target(spec.core)()

    def step(logits: mx.array, state: Any, context: RowContext, rows: Sequence[int]) -> Any:
        out, state = processor.process(logits, state, context)
        _require(out.shape == logits.shape, f"logits have the shape {out.shape}")
        _require(not bool(mx.isnan(out).any()), "logits are not numbers")
        return out, state

    check_rows(processor, step, option_sets(spec, options, others))


# Messages and text


def check_message_transform(transform: MessageTransform) -> None:
    """Run a transform on conversations of several shapes."""
    parts = Message(role="user", content=(TextPart("a"), TextPart("b")))
    conversations = (
        (Message(role="user", content="Hello"),),
        (Message(role="system", content="Be brief."), parts),
        (Message(role="user", content=""), Message(role="assistant", content="x"), parts),
    )
    for messages in conversations:
        result = transform(messages)
        _require(isinstance(result, list | tuple) and bool(result), "it returns no messages")
        _require(all(isinstance(m, Message) for m in result), "it returns other things")


def check_output_filter(factory: OutputFilterFactory, text: str = "Hello, wide world!") -> None:
    """Check that what a filter shows does not depend on how the text was cut into pieces."""
    whole = _filtered(factory, [text])
    for size in (1, 2, 3, 7):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        _require(_filtered(factory, pieces) == whole, f"pieces of {size} are shown otherwise")


def _filtered(factory: OutputFilterFactory, pieces: Sequence[str]) -> tuple[str, bool]:
    filter_ = factory()
    shown = ""
    for piece, last in [*((piece, False) for piece in pieces), ("", True)]:
        result = filter_.push(piece, last)
        _require(isinstance(result, str | EndText), f"it returned a {type(result).__name__}")
        if isinstance(result, EndText):
            return shown + result.text, True
        shown += result
    return shown, False
