"""`Engine`: a model as a Python object, with or without a server around it."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from budmlx.engine.hub import default_model_dir, resolve_model
from budmlx.engine.text import TextStream
from budmlx.engine.tokenizer import Tokenizer
from rich.console import Console
from rich.progress import track

from budmlx.config import Config
from budmlx.engine.generation import Generation, LoopMailbox, Mailbox, ThreadMailbox, Update
from budmlx.engine.host import Host, HostStatus
from budmlx.engine.requests import (
    Messages,
    chat_request,
    core_request,
    prompt_ids,
    sampling_params,
)
from budmlx.errors import BudmlxError, EngineClosedError
from budmlx.protocol import CoreSettings, StepFrame
from budmlx.types import (
    Completion,
    Event,
    Finished,
    ModelInfo,
    Request,
    TextDelta,
)

# What the model is called that runs when none is named.
DEMO_NAME = "budmlx-tiny"
# Prompts with more characters than this are tokenized off the event loop.
INLINE_CHARACTERS = 16_384
# Hosts are imported on use: the thread host loads MLX, which a server's parent never does.
HOSTS = {
    "thread": "budmlx.engine.host_thread:ThreadHost",
    "process": "budmlx.engine.host_process:ProcessHost",
}


class Engine:
    """A loaded model that answers chats. Thread-safe; one engine serves many callers.

    >>> with Engine.load(model_path) as engine:
    ...     reply = engine.chat("Say something.", temperature=0, max_tokens=8)
    ...     reply.finish_reason, reply.usage.completion_tokens
    ('length', 8)
    """

    def __init__(self, path: Path, name: str, config: Config):
        """Load the directory `path` as `name`; `Engine.load` finds directories."""
        self._tokenizer = Tokenizer.load(path)
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self._closed = False
        settings = CoreSettings(
            model_path=str(path),
            model_name=name,
            memory_limit=config.memory_limit and int(config.memory_limit),
            max_rows=config.max_rows,
            prefill_chunk=config.prefill_chunk,
        )
        self._host = self._open_host(settings, config)
        self.info: ModelInfo = self._host.info

    @classmethod
    def load(cls, model: str | Path | None = None, **settings: Any) -> Engine:
        """Load a directory, a hub repository (`org/name`) or, with None, the demo model.

        settings: fields of `budmlx.config.Config`, such as `revision`, `memory_limit`,
        `max_rows`, or `engine_host="process"` to run the model in a child process.

        Raises:
            ModelLoadError: the model is missing or cannot be used.
            ConfigError: a setting is unknown or out of range.
        """
        name = None if model is None else str(model)
        config = Config.of(**{"engine_host": "thread", **settings, "model": name})
        return cls.from_config(config)

    @classmethod
    def from_config(cls, config: Config) -> Engine:
        """Load the model that `config` names."""
        if config.model is None:
            return cls(default_model_dir(), DEMO_NAME, config)
        path = resolve_model(config.model, config.revision)
        is_directory = Path(config.model).exists()
        return cls(path, path.resolve().name if is_directory else config.model, config)

    def _open_host(self, settings: CoreSettings, config: Config) -> Host:
        module, _, name = HOSTS[config.engine_host].partition(":")
        host_class = getattr(importlib.import_module(module), name)
        options = (
            {"watchdog_seconds": config.watchdog_seconds} if config.engine_host == "process" else {}
        )
        host: Host = host_class(settings, self._receive, **options)
        return host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the core. Requests that still run raise EngineUnavailableError. Idempotent."""
        self._closed = True
        self._host.close()

    def status(self) -> HostStatus:
        """Whether requests make progress now."""
        return self._host.status()

    # The Python API

    def chat(self, messages: Messages, **sampling: Any) -> Completion:
        """Answer a conversation.

        messages: a string (one user message), or messages as dicts in the
        chat-completions shape or as `Message`. sampling: fields of `SamplingParams`,
        and `chat_template_kwargs`.

        Raises:
            InvalidRequestError: a message or parameter is wrong; `param` names it.
            ContextLengthError: the prompt is longer than the context.

        >>> reply = engine.chat([{"role": "user", "content": "Hi"}], max_tokens=3, seed=1)
        >>> reply.usage.completion_tokens
        3
        """
        return self._complete(chat_request(messages, sampling))

    def stream(self, messages: Messages, **sampling: Any) -> Iterator[Event]:
        """Like `chat`, but yields `TextDelta` events as they come and last `Finished`.

        >>> events = list(engine.stream("Hi", temperature=0, max_tokens=4))
        >>> events[-1].reason
        'length'
        """
        return self.events(chat_request(messages, sampling))

    async def achat(self, messages: Messages, **sampling: Any) -> Completion:
        """`chat` for asyncio."""
        request = chat_request(messages, sampling)
        return self._completion([event async for event in self.aevents(request)])

    def astream(self, messages: Messages, **sampling: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        return self.aevents(chat_request(messages, sampling))

    def complete(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        """Continue raw text or token ids, without a chat template.

        >>> engine.complete([5, 6, 7], temperature=0, max_tokens=2).usage.prompt_tokens
        3
        """
        raw = prompt if isinstance(prompt, str) else tuple(prompt)
        return self._complete(Request(prompt=raw, sampling=sampling_params(sampling)))

    def chat_many(
        self, conversations: Iterable[Messages], *, progress: bool = True, **sampling: Any
    ) -> list[Completion]:
        """Answer many conversations as one batch, in order, with a progress bar.

        The first request that fails raises; the others are cancelled then.

        >>> [reply.finish_reason for reply in engine.chat_many(["a", "b"], max_tokens=2)]
        ['length', 'length']
        """
        requests = [chat_request(messages, sampling) for messages in conversations]
        mailbox = ThreadMailbox()
        events: dict[Generation, list[Event]] = {}
        try:
            for request in requests:
                events[self._submit(request, mailbox)] = []
            bar = track(
                requests,
                description="Generating",
                disable=not progress,
                transient=True,
                console=Console(stderr=True),
            )
            for _ in bar:
                self._finish_one(mailbox, events)
        finally:
            for generation in events:
                self._release(generation)
        return [self._completion(list_) for list_ in events.values()]

    def _finish_one(self, mailbox: ThreadMailbox, events: dict[Generation, list[Event]]) -> None:
        """Wait until one more of the generations is over."""
        while True:
            generation, updates = mailbox.get()
            events[generation].extend(generation.events(updates))
            if generation.over:
                return

    # Requests

    def events(self, request: Request) -> Iterator[Event]:
        """Run a request; yields its events. Closing the iterator cancels it.

        Raises:
            InvalidRequestError, ContextLengthError: before anything is computed.
            OverloadedError, EngineUnavailableError, RequestFailedError: as terminal event.
            EngineClosedError: the engine was closed before.
        """
        mailbox = ThreadMailbox()
        generation = self._submit(request, mailbox)
        try:
            while not generation.over:
                _, updates = mailbox.get()
                yield from generation.events(updates)
        finally:
            self._release(generation)

    async def aevents(self, request: Request) -> AsyncIterator[Event]:
        """`events` for asyncio; long prompts are tokenized off the event loop."""
        mailbox = LoopMailbox()
        if request.characters <= INLINE_CHARACTERS:
            generation = self._submit(request, mailbox)
        else:
            generation = await asyncio.to_thread(self._submit, request, mailbox)
        try:
            while not generation.over:
                _, updates = await mailbox.get()
                for event in generation.events(updates):
                    yield event
        finally:
            self._release(generation)

    def _submit(self, request: Request, mailbox: Mailbox) -> Generation:
        if self._closed:
            raise EngineClosedError("The engine is closed; load it again.")
        sampling = request.sampling
        ids = prompt_ids(request, self._tokenizer, self.info)
        stop_ids = {*self.info.eos_token_ids, *self._tokenizer.eos_token_ids}
        row = core_request(next(self._ids), ids, sampling, sorted(stop_ids))
        text = TextStream(self._tokenizer, sampling.stop)
        generation = Generation(row.id, len(ids), text, mailbox)
        self._generations[row.id] = generation
        try:
            self._host.submit(row)
        except BudmlxError:
            del self._generations[row.id]
            raise
        return generation

    def _release(self, generation: Generation) -> None:
        self._generations.pop(generation.id, None)
        if not generation.left_core:
            self._host.cancel(generation.id)

    def _receive(self, frame: StepFrame) -> None:
        """Hand a frame to its generations. Runs on the host's thread."""
        now = time.monotonic()
        for row_id in frame.started:
            if generation := self._generations.get(row_id):
                generation.stamp_start(now)
        updates: list[Update] = [*frame.tokens, *frame.failed]
        for update in updates:
            if generation := self._generations.get(update.id):
                generation.deliver((update,), now)

    def _complete(self, request: Request) -> Completion:
        return self._completion(list(self.events(request)))

    def _completion(self, events: Sequence[Event]) -> Completion:
        *deltas, finished = events
        assert isinstance(finished, Finished)
        return Completion(
            text="".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
            finish_reason=finished.reason,
            usage=finished.usage,
            timing=finished.timing,
            model=self.info.name,
        )
