"""Whatever a plugin raises, in any ring, fails its request alone, with the plugin named."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel, field_validator

from budmlx import Engine, hookimpl
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import InvalidRequestError, ModelLoadError, PluginError
from budmlx.plugins import boundary
from budmlx.plugins.boundary import MOST_CHARACTERS, MOST_OF_A_REFUSAL, calling
from budmlx.plugins.parsing import Call, Content, Piece, ReasoningParserSpec
from budmlx.plugins.specs import LogitsProcessorSpec, MessageTransform, Route, SamplerSpec
from budmlx.server.app import HttpServer
from budmlx.server.lag import LagMonitor
from budmlx.types import Message
from tests.models import tiny_model_dir
from tests.plugins.packages import Site
from tests.server.tools import body, check_error, exchange, get, post

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}

RAISED = {
    each.__name__: each
    for each in (
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        StopIteration,
        asyncio.CancelledError,
        type("Own", (BaseException,), {}),
    )
}
HUGE = "x" * (MOST_CHARACTERS + 1)
HALF = "half a pair: \ud83d"


def fail(how: str) -> None:
    if how in RAISED:
        raise RAISED[how]("secret words")


class Choice(BaseModel):
    how: str = ""

    @field_validator("how")
    @classmethod
    def check(cls, how: str) -> str:
        fail(how.removeprefix("at once "))
        return how


class Parser:
    """Does what the last word of the prompt says."""

    def __init__(self, how: str):
        self.how = how
        self.start = 0

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        fail(self.how)
        if self.how == "call":
            return [Call("name", None)]  # type: ignore[arg-type]
        found = {"huge": HUGE, "half": HALF, "number": 7}.get(self.how, text)
        return [Content(found, 0)] if found else []  # type: ignore[arg-type]


class Everything:
    """A plugin that does in each of its parts what a request tells that part."""

    how = ("", "")

    def at(self, part: str) -> str:
        return self.how[1] if self.how[0] == part else ""

    @hookimpl
    def add_message_transforms(self) -> list[MessageTransform]:
        def transform(messages: tuple[Message, ...]) -> Sequence[Any]:
            how = self.at("transform")
            fail(how)
            text = {"huge": HUGE, "half": HALF}.get(how)
            return messages if text is None else [Message(role="user", content=text)]

        return [transform]

    @hookimpl
    def add_output_filters(self) -> list[Callable[[], Any]]:
        class Filter:
            def push(_, text: str, last: bool) -> str:
                how = self.at("filter")
                fail(how)
                return {"huge": HUGE, "half": HALF}.get(how, text)

        return [Filter]

    @hookimpl
    def provide_reasoning_parser(self) -> ReasoningParserSpec:
        return ReasoningParserSpec("own", lambda tail: Parser(self.at("parser")))

    @hookimpl
    def add_samplers(self) -> list[SamplerSpec]:
        return [SamplerSpec("own", Choice, "tests.core.plugin_samples:Raises")]

    @hookimpl
    def add_routes(self) -> list[Route]:
        async def answer(request: web.Request) -> web.Response:
            fail(request.query["how"])
            if request.query["how"] == "cancels itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(60)
            return web.Response(text="fine")

        async def hold(request: web.Request) -> web.Response:
            hold_up()
            return web.Response(text="late")

        return [web.get("/own", answer), web.get("/hold", hold)]


HELD = threading.Event()


def hold_up() -> None:
    HELD.wait()


@pytest.fixture(scope="module")
def plugin() -> Everything:
    return Everything()


@pytest.fixture(scope="module")
def engine(plugin: Everything) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(), plugins=[plugin]) as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_interrupts() -> Iterator[None]:
    """Ctrl-C does not raise, as in a server; so that a plugin's own is told from it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


# LIMITS 117
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("part", ["transform", "filter", "parser", "options", "core"])
def test_it_is_the_plugins_fault(
    engine: Engine, plugin: Everything, part: str, raised: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = {"options": f"at once {raised}", "core": f"in the core {raised}"}.get(part)
    more = {} if chosen is None else {"sampler": {"name": "own", "how": chosen}}
    plugin.how = (part, raised)
    try:
        with pytest.raises(PluginError, match="plugin Everything-0 failed in its") as caught:
            engine.chat("Hello", **GREEDY, **more)
    finally:
        plugin.how = ("", "")
    assert "secret" not in caught.value.message + caplog.text
    assert "Plugin Everything-0 failed in its" in caplog.text and raised in caplog.text
    assert engine.chat("Hello", **GREEDY).usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("part", "how", "problem"),
    [
        ("transform", "huge", f"{MOST_CHARACTERS:,}"),
        ("transform", "half", "no message"),
        ("filter", "huge", f"{MOST_CHARACTERS:,}"),
        ("filter", "half", "surrogates"),
        ("parser", "huge", f"{MOST_CHARACTERS:,}"),
        ("parser", "half", "surrogates"),
        ("parser", "number", "returned int, not text"),
        ("parser", "call", "returned NoneType, not text"),
    ],
)
def test_texts_that_no_client_can_be_sent(
    engine: Engine, plugin: Everything, part: str, how: str, problem: str
) -> None:
    plugin.how = (part, how)
    try:
        with pytest.raises(PluginError, match="plugin Everything-0") as caught:
            engine.chat("Hello", **GREEDY)
    finally:
        plugin.how = ("", "")
    assert problem in caught.value.message and len(caught.value.message) < 200


def test_a_refusal_is_short_and_text() -> None:
    for message in (HALF, "x" * (MOST_OF_A_REFUSAL + 1)):
        with pytest.raises(PluginError, match="plugin p failed"), calling("p", "part"):
            raise InvalidRequestError(message)
    with pytest.raises(InvalidRequestError, match="not so"), calling("p", "part"):
        raise InvalidRequestError("not so")


def test_a_call_within_a_call_leaves_the_outer_one() -> None:
    """A plugin may use an engine itself, with plugins of its own."""
    thread = threading.get_ident()
    with calling("outer", "transform"):
        with calling("inner", "filter"):
            assert boundary.running_on(thread) == ("inner", "filter")
        assert boundary.running_on(thread) == ("outer", "transform")
    assert boundary.running_on(thread) is None


@pytest.mark.parametrize("pause", ["computes", "waits", "rests"])
def test_one_that_takes_most_of_the_time_is_named_and_counted(
    pause: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budmlx.plugins.pace.WINDOW_SECONDS", 0.1)
    name = f"slow-{pause}"
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        with calling(name, "output filter"):
            if pause == "computes":
                sum(range(20_000))
            elif pause == "waits":
                time.sleep(0.03)
        if pause == "rests":
            time.sleep(0.03)
    if pause == "rests":
        assert name not in boundary.FAULT_COUNTS and name not in caplog.text
    else:
        assert boundary.FAULT_COUNTS[name]["slow"] >= 1
        assert caplog.text.count(f"Plugin {name} is slow: its calls in the engine take") == 1


def test_the_users_own_interrupt_is_no_fault() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), calling("p", "part"):
        signal.raise_signal(signal.SIGINT)


# LIMITS 117
async def test_routes_fail_their_request_alone(engine: Engine) -> None:
    config = Config(port=0, drain_seconds=0)
    server = await HttpServer.start(Models.of(engine, ("demo",)), config)
    try:
        for raised in (*RAISED, "cancels%20itself"):
            error = check_error(await exchange(server, get(f"/own?how={raised}")), 500)
            assert error["code"] == "plugin_error" and "Everything-0" in error["message"]
        assert (await exchange(server, get("/own?how="))).content == b"fine"
        assert (await exchange(server, post(json.dumps(body()).encode()))).status == 200
    finally:
        await server.drain()


async def test_a_route_that_blocks_the_loop_is_named(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(port=0, drain_seconds=0)
    server = await HttpServer.start(Models.of(engine, ("demo",)), config)
    before = boundary.FAULT_COUNTS.get("Everything-0", {}).get("blocks", 0)

    def release() -> None:  # only after it was told
        while "Nothing is served" not in caplog.text:
            threading.Event().wait(0.01)
        HELD.set()

    helper = threading.Thread(target=release, daemon=True)
    try:
        with LagMonitor(seconds=0.1):
            helper.start()
            assert (await exchange(server, get("/hold"))).content == b"late"
            while "The event loop waited for" not in caplog.text:
                await asyncio.sleep(0.01)
    finally:
        await server.drain()
    told = "the event loop waits for plugin Everything-0, in its route GET /hold, at "
    assert told in caplog.text
    assert boundary.FAULT_COUNTS["Everything-0"]["blocks"] == before + 1


class Nowhere:
    """Names factories that there are not."""

    def __init__(self, core: str):
        self.core = core

    @hookimpl
    def add_logits_processors(self) -> list[LogitsProcessorSpec]:
        return [LogitsProcessorSpec("nowhere", Choice, self.core)]


@pytest.mark.parametrize(
    ("core", "problem"),
    [
        ("no_such_module:Factory", "does not exist"),
        ("tests.core.plugin_samples:NoSuchClass", "does not exist"),
        ("tests.core.plugin_samples:annotations", "is no function or class"),
    ],
)
def test_a_factory_that_is_not_there_fails_the_load(core: str, problem: str) -> None:
    with pytest.raises(ModelLoadError, match=problem) as caught:
        Engine.load(tiny_model_dir(), plugins=[Nowhere(core)])
    assert "plugin Nowhere-0 has no usable logits processor nowhere" in str(caught.value)


def test_one_that_was_only_found_leaves_the_rest(
    tmp_path: Path,
) -> None:
    """Installed plugins that nobody named do not keep a server down."""
    site = Site(tmp_path)
    site.install(
        "found",
        """
        from budmlx import hookimpl
        from budmlx.plugins.specs import SamplerSpec
        from pydantic import BaseModel

        class Choice(BaseModel):
            pass

        @hookimpl
        def add_samplers():
            return [SamplerSpec("gone", Choice, "fake_found:gone")]
        """,
    )
    program = (
        "import logging; logging.basicConfig()\n"
        "from budmlx import Engine\n"
        f"with Engine.load({str(tiny_model_dir())!r}) as engine:\n"
        "    print(engine.chat('Hi', max_tokens=2).usage.completion_tokens)\n"
        "    try: engine.chat('Hi', sampler={'name': 'gone'})\n"
        "    except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "BUDMLX_DEVICE": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("2\nThe plugin found failed in its sampler gone")
    assert "The plugin found has no usable sampler gone: fake_found:gone does not" in done.stderr
