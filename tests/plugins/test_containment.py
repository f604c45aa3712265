"""Plugins that take long or for ever cost their own request, and nobody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from budmlx import Engine, hookimpl
from budmlx.engine.procedures import PluginCalls, drive
from budmlx.errors import PluginError
from budmlx.plugins.hanging import HangingCalls
from budmlx.plugins.limits import PluginLimits
from budmlx.plugins.parsing import Content, Piece, ReasoningParserSpec
from budmlx.plugins.specs import OutputFilterFactory, RequestRecord
from budmlx.plugins.vision import Detail, Pixels, PreparedImage, VisionPreprocessorSpec
from tests.models import tiny_model_dir
from tests.plugins.engines import load_within
from tests.vision_plugin import parts, picture

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


class Gate:
    """Something that returns only after `open`; `armed` once."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.armed = True
        self.threads: set[int] = set()

    def open(self) -> None:
        self.opened.set()

    def pass_through(self) -> None:
        self.threads.add(threading.get_ident())
        if self.armed:
            self.armed = False
            self.opened.wait()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


class Filtering:
    """Hangs where it is told to: when a filter is made, or when it gets text."""

    def __init__(self, gate: Gate, place: str):
        self.gate = gate
        self.place = place

    @hookimpl
    def add_output_filters(self) -> Sequence[OutputFilterFactory]:
        return [self.make]

    def make(self) -> Filtering:
        if self.place == "make":
            self.gate.pass_through()
        return self

    def push(self, text: str, last: bool) -> str:
        if self.place == "push":
            self.gate.pass_through()
        return text


class Parsing:
    """A parser of reasoning that finds none, and hangs."""

    def __init__(self, gate: Gate):
        self.gate = gate
        self.start = 0

    @hookimpl
    def provide_reasoning_parser(self, name: str) -> ReasoningParserSpec:
        return ReasoningParserSpec("hanging", lambda tail: Parsing(self.gate))

    def push(self, text: str, last: bool) -> list[Piece]:
        self.gate.pass_through()
        self.start += len(text)
        return [Content(text, self.start - len(text))] if text else []


def load(*plugins: object, **limits: Any) -> Engine:
    # Long enough for calls that do not hang, on a machine that pauses.
    within = PluginLimits(**{"call_seconds": 1.0, **limits})
    return load_within(within, tiny_model_dir(scale=4.0), *plugins)


# LIMITS 117
@pytest.mark.parametrize("kind", ["make", "push", "parser"])
async def test_what_hangs_fails_its_request_and_the_loop_goes_on(
    gate: Gate, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = Parsing(gate) if kind == "parser" else Filtering(gate, kind)
    name = type(plugin).__name__
    with load(plugin) as engine:
        asks = [engine.achat("Hello", **GREEDY) for _ in range(2)]
        replies = await asyncio.gather(*asks, return_exceptions=True)
        fine = [reply for reply in replies if not isinstance(reply, BaseException)]
        (error,) = [reply for reply in replies if isinstance(reply, PluginError)]
        assert fine[0].usage.completion_tokens == 12
        assert error.code == "plugin_error" and f"plugin {name}-0" in error.message
        assert f"Plugin {name}-0 hangs in its" in caplog.text
        with pytest.raises(PluginError, match=f"{name}-0 is disabled"):
            await engine.achat("Hello", **GREEDY)
        with pytest.raises(PluginError, match=f"{name}-0 is disabled"):
            engine.chat("Hello", **GREEDY)
        gate.open()
        while True:  # It returned late: its thread takes a moment to end.
            try:
                assert engine.chat("Hello", **GREEDY).usage.completion_tokens == 12
                break
            except PluginError:
                await asyncio.sleep(0.01)
        assert not engine._pipeline.dispatcher._jobs
    assert threading.get_ident() not in gate.threads


class Transforming:
    """A message transform that hangs every time, until the gate opens."""

    def __init__(self, gate: Gate):
        self.gate = gate

    @hookimpl
    def add_message_transforms(self) -> Sequence[Any]:
        return [self.transform]

    def transform(self, messages: Any) -> Any:
        self.gate.threads.add(threading.get_ident())
        self.gate.opened.wait()
        return messages


def test_calls_that_hang_are_counted_named_and_bounded(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    part = ("Transforming-0", "message transform")
    with load(Transforming(gate), call_seconds=0.2, hanging_calls=2) as engine:
        hanging = engine.plugins.hanging
        for count in (1, 2):
            assert "message transform (2)" not in caplog.text
            with pytest.raises(PluginError, match="its message transform took more"):
                engine.chat("Hello", **GREEDY)
            assert hanging.counts() == {part: count}
        assert "Transforming-0 is disabled" in caplog.text
        for _ in range(3):
            with pytest.raises(PluginError, match=r"Transforming-0 is disabled.*transform \(2\)"):
                engine.chat("Hello", **GREEDY)
        assert (hanging.counts(), len(gate.threads)) == ({part: 2}, 2)
        gate.open()
        while hanging.counts():
            threading.Event().wait(0.01)
        assert engine.chat("Hello", **GREEDY).usage.completion_tokens == 12
    assert caplog.text.count("Plugin Transforming-0 returned late from its message transform") == 2


def test_running_requests_leave_no_further_threads_beyond_the_bound() -> None:
    hanging = HangingCalls(seconds=60, most=2)
    running = PluginCalls(hanging, ["p", "q"])
    futures: list[Future[None]] = [Future() for _ in range(3)]
    with running:
        hanging.add("p", "filter", futures[0])
        hanging.add("other", "filter", futures[1])
        assert drive(running.run(lambda: 1)) == 1
        with pytest.raises(PluginError, match=r"p is disabled.*filter \(1\)"):
            PluginCalls(hanging, ["p"])
        hanging.add("p", "tool parser", futures[2])
        with pytest.raises(PluginError, match=r"p is disabled.*filter \(1\), tool parser \(1\)"):
            drive(running.run(lambda: 1))
        futures[0].set_result(None)
        assert drive(running.run(lambda: 2)) == 2


def test_without_plugins_of_others_no_thread_is_started() -> None:
    with load() as engine:
        before = threading.active_count()
        stream = engine.stream("Hello", **GREEDY)
        next(stream)
        assert threading.active_count() == before
        list(stream)


class Observing:
    def __init__(self, gate: Gate):
        self.gate = gate
        self.records: list[RequestRecord] = []

    @hookimpl
    def on_request_finished(self, record: RequestRecord) -> None:
        self.gate.pass_through()
        self.records.append(record)


async def test_observers_keep_nobody_waiting(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = Observing(gate), Observing(Gate())
    quick.gate.open()
    with load(slow, quick, waiting_records=3) as engine:
        for count in range(1, 7):
            await engine.achat("Hello", temperature=0, max_tokens=count)
        assert not slow.records
        gate.open()
    counts = [record.usage.completion_tokens for record in quick.records if record.usage]
    assert counts == [1, 2, 3, 4, 5, 6]
    counts = [record.usage.completion_tokens for record in slow.records if record.usage]
    assert counts == [1, 2, 3, 4]
    assert caplog.text.count("too slow in on_request_finished") == 1
    assert threading.get_ident() not in slow.gate.threads | quick.gate.threads


def test_an_observer_that_hangs_does_not_keep_the_engine_from_closing(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with load(Observing(gate), close_seconds=0.1) as engine:
        engine.chat("Hello", **GREEDY)
    assert "Plugin Observing-0 does not return from on_request_finished" in caplog.text


class Seeing:
    """Makes text of pictures, after it hung."""

    def __init__(self, gate: Gate):
        self.gate = gate

    @hookimpl
    def provide_vision_preprocessor(self, name: str) -> VisionPreprocessorSpec:
        return VisionPreprocessorSpec("hanging", self.prepare)

    def prepare(self, pixels: Pixels, detail: Detail) -> PreparedImage:
        self.gate.pass_through()
        return PreparedImage(text="a picture")


def test_a_vision_preprocessor_has_a_limit(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with load(Seeing(gate)) as engine:
        with pytest.raises(PluginError, match="Seeing-0 failed: its vision preprocessor took more"):
            engine.chat(parts(picture(0)), **GREEDY)
        assert engine.chat(parts(picture(0)), **GREEDY).usage.completion_tokens > 0
    assert "Plugin Seeing-0 hangs in its vision preprocessor" in caplog.text
