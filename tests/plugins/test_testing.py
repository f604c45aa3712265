"""The contract checks find what they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from pydantic import BaseModel

from budmlx import hookimpl
from budmlx.builtin.memory_cache import MemoryCache
from budmlx.config import Config
from budmlx.plugins.manager import Plugins
from budmlx.plugins.parsing import (
    Call,
    CallGrammar,
    CallSyntax,
    Content,
    Piece,
    ReasoningParserSpec,
    Thought,
    Tool,
    ToolParserSpec,
)
from budmlx.plugins.specs import CacheStats, LogitsProcessorSpec, RowContext, SamplerSpec
from budmlx.testing import (
    check_logits_processor,
    check_message_transform,
    check_output_filter,
    check_reasoning_parser,
    check_response_cache,
    check_sampler,
    check_tool_parser,
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
        ("Converts", "a state changes its layout: float32"),
    ],
)
def test_wrong_samplers(name: str, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_sampler(sampler(name))


class Stretched(Greedy):
    """Has a state that is as long as an option says."""

    def init(self, options: Mapping[str, Any]) -> Any:
        return {"weights": mx.zeros((1, int(options["amount"])))}

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        return mx.argmax(logits, axis=-1), state


class Converts(Greedy):
    """Has a state of another dtype after the first step."""

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        return mx.argmax(logits, axis=-1), {**state, "count": state["count"] * 0.5}


class Told(Greedy):
    """Keeps the size of the vocabulary."""

    def init(self, options: Mapping[str, Any], vocab_size: int) -> Any:
        return mx.array([vocab_size])

    def sample(self, logits: Any, state: Any, context: RowContext, keys: Any) -> Any:
        assert state[0].item() == logits.shape[-1]
        return mx.argmax(logits, axis=-1), state


def test_options_are_tried_in_one_batch() -> None:
    check_sampler(sampler("Greedy"), {"amount": 2}, {"amount": 3}, {"amount": 4}, amount=1)
    check_sampler(sampler("Told"))
    check_sampler(sampler("Stretched"), {"amount": 3}, amount=3)
    with pytest.raises(AssertionError, match=r"float32\[rows, 1\] instead of float32\[rows, 3\]"):
        check_sampler(sampler("Stretched"), amount=3)  # beside the default options
    with pytest.raises(AssertionError, match=r"different layouts: .* in weights, for .*4\.0"):
        check_sampler(sampler("Stretched"), {"amount": 4}, amount=3)


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


class Right:
    """A tool parser of `<f>{...}`, up to the end of the text."""

    def __init__(self, tools: Sequence[Tool], in_pieces: bool):
        self._text = ""

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        self._text += text
        return self.parse(self._text) if last else []

    def parse(self, text: str) -> Sequence[Piece]:
        before, marker, body = text.partition("<f>")
        if not marker or not body.endswith("}"):
            return [Content(text, 0)] if text else []
        return [*([Content(before, 0)] if before else []), Call("f", body)]


class NeedsWholeMarkers(Right):
    seen = False

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        self.seen = self.seen or "<f>" in text
        pieces = super().push(text, last)
        return pieces if self.seen or not last else [Content(self._text, 0)]


class WrongPlace(Right):
    def parse(self, text: str) -> Sequence[Piece]:
        return [replace(p, start=1) if isinstance(p, Content) else p for p in super().parse(text)]


class Impatient(Right):
    def parse(self, text: str) -> Sequence[Piece]:
        if text.endswith("{"):
            raise ValueError("the call is not complete")
        return super().parse(text)


class NoObject(Right):
    def parse(self, text: str) -> Sequence[Piece]:
        return [Call("f", "[]") if isinstance(p, Call) else p for p in super().parse(text)]


F_CALL = Call("f", '{"a": 1}')


def test_a_right_tool_parser_passes() -> None:
    check_tool_parser(ToolParserSpec("x", Right), 'Hi <f>{"a": 1}', F_CALL, content="Hi ")


@pytest.mark.parametrize(
    ("parser", "call", "problem"),
    [
        (NeedsWholeMarkers, F_CALL, "the whole text gives"),
        (WrongPlace, F_CALL, "is not where it says"),
        (Impatient, F_CALL, "not complete"),
        (NoObject, Call("f", "[]"), "are no object"),
        (Right, Call("f", "{}"), "the calls are"),
    ],
)
def test_wrong_tool_parsers(parser: type[Right], call: Call, problem: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=problem):
        check_tool_parser(ToolParserSpec("x", parser), 'Hi <f>{"a": 1}', call, content="Hi ")


def test_wrong_triggers() -> None:
    syntax = CallSyntax("<g>", lambda tool: CallGrammar("<f>", "%json {}", ""))
    with pytest.raises(AssertionError, match="trigger"):
        check_tool_parser(
            ToolParserSpec("x", Right, syntax=syntax), '<f>{"a": 1}', F_CALL, tools=[Tool("f")]
        )


class Thinks:
    """A reasoning parser: what stands before a bar is reasoning."""

    def __init__(self, prompt: str):
        self._text = ""

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        self._text += text
        thought, bar, content = self._text.partition("|")
        return [Thought(thought, 0), Content(content, len(thought) + 1)] if last and bar else []


def test_reasoning_parsers() -> None:
    spec = ReasoningParserSpec("x", Thinks)
    with pytest.raises(AssertionError, match="the reasoning is"):
        check_reasoning_parser(spec, "a", thought="a", content="")
    check_reasoning_parser(spec, "a|b", thought="a", content="b")
    for thought, content, problem in (("b", "b", "the reasoning is"), ("a", "a", "the content is")):
        with pytest.raises(AssertionError, match=problem):
            check_reasoning_parser(spec, "a|b", thought=thought, content=content)
