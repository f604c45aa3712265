"""The contract checks find what they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import pytest
from pydantic import BaseModel

from budmlx import hookimpl
from budmlx.builtin.memory_cache import MemoryCache
from budmlx.config import Config
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import CacheStats, LogitsProcessorSpec, RowContext, SamplerSpec
from budmlx.testing import (
    check_logits_processor,
    check_message_transform,
    check_output_filter,
    check_response_cache,
    check_sampler,
)

HERE = "tests.plugins.test_testing"


class Options(BaseModel):
    amount: float = 1.0


class Greedy:
    """Right."""

    def init(self, options: Mapping[str, Any]) -> Any:
        return {"amount": mx.array([options["amount"]]), "count": mx.array([0])}

    def sample(
        self, logits: mx.array, state: Any, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, Any]:
        return mx.argmax(logits, axis=-1), {**state, "count": state["count"] + 1}


class Remembers(Greedy):
    """Keeps something about its rows to itself."""

    calls = 0

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        self.calls += 1
        return mx.argmax(logits, axis=-1) * 0 + self.calls, state


class Mixes(Greedy):
    """Looks at all rows at once."""

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        return mx.argmax(logits - mx.max(logits, axis=0), axis=-1), state


class Shared(Greedy):
    """Has a state without an entry for each row."""

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        return mx.argmax(logits, axis=-1), {**state, "count": mx.array([0])}


class Outside(Greedy):
    """Draws ids that are not in the vocabulary."""

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        return mx.argmax(logits, axis=-1) + logits.shape[-1], state


def sampler(name: str) -> SamplerSpec:
    return SamplerSpec("x", Options, f"{HERE}:{name}")


def test_a_right_sampler_passes() -> None:
    check_sampler(sampler("Greedy"), amount=2)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("Remembers", "the same call has another result"),
        ("Mixes", "a row depends on the rows beside it"),
        ("Shared", "no entry for each row"),
        ("Outside", "outside the vocabulary"),
    ],
)
def test_wrong_samplers(name: str, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_sampler(sampler(name))


class Halve:
    """Right: halves the logit of the last token."""

    def init(self, options: Mapping[str, Any]) -> Any:
        return ()

    def process(self, logits: mx.array, state: Any, context: RowContext) -> tuple[mx.array, Any]:
        rows = mx.arange(logits.shape[0])
        return logits.at[rows, context.last].multiply(0.5), state


class InPlace(Halve):
    """Writes into the logits it was given."""

    def process(self, logits: Any, state: Any, context: RowContext) -> Any:
        logits[:, 0] = 0
        return logits, state


def processor(name: str) -> LogitsProcessorSpec:
    return LogitsProcessorSpec("x", Options, f"{HERE}:{name}")


def test_processors() -> None:
    check_logits_processor(processor("Halve"))
    with pytest.raises(AssertionError, match=r"another result|changes the logits"):
        check_logits_processor(processor("InPlace"))


class Offers:
    @hookimpl
    def add_samplers(self) -> Sequence[SamplerSpec]:
        return [sampler("Greedy")]

    @hookimpl
    def add_logits_processors(self) -> Sequence[LogitsProcessorSpec]:
        return [processor("Halve")]


def test_they_are_found_by_name() -> None:
    plugins = Plugins.load(Config.of(engine_host="thread"), [Offers()])
    for hook in ("add_samplers", "add_logits_processors"):
        assert plugins.named(hook)["x"].plugin == "Offers-0"
    info = plugins.info[0]
    assert info.rings == ("core",)


class Forgets(MemoryCache):
    def delete(self, key: str) -> None:
        pass


class Immortal(MemoryCache):
    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        super().set(key, value, None)


class Miscounts(MemoryCache):
    def stats(self) -> CacheStats:
        return CacheStats(0, 0)


def test_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    check_response_cache(MemoryCache(2**20))
    clock = iter(range(10**6))
    monkeypatch.setattr("budmlx.testing.time.monotonic", lambda: float(next(clock)))
    for kind in (Forgets, Immortal, Miscounts, lambda size: MemoryCache(100)):
        with pytest.raises(AssertionError):
            check_response_cache(kind(2**20))


def test_transforms_and_filters() -> None:
    wrong: list[Callable[..., Any]] = [lambda messages: [], lambda messages: ["x"]]
    for transform in wrong:
        with pytest.raises(AssertionError):
            check_message_transform(transform)

    class PerPiece:
        def push(self, text: str, last: bool) -> str:
            return text.replace("wide", "#")

    with pytest.raises(AssertionError, match="pieces of 1"):
        check_output_filter(PerPiece)
