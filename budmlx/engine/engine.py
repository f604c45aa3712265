"""`Engine`: a model as a Python object, with or without a server around it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import track

from budmlx.config import Config
from budmlx.engine.completion import completion
from budmlx.engine.generation import Generation
from budmlx.engine.host import HostStatus, open_host
from budmlx.engine.hub import default_model_dir, resolve_model
from budmlx.engine.logprobs import LogprobReader
from budmlx.engine.mailbox import LoopMailbox, Mailbox, ThreadMailbox, Update
from budmlx.engine.requests import (
    Messages,
    chat_request,
    core_requests,
    prompt_ids,
    prompt_request,
    without_unknown_ids,
)
from budmlx.engine.text import TextStream
from budmlx.engine.tokenizer import Tokenizer
from budmlx.errors import BudmlxError, EngineClosedError
from budmlx.protocol import CoreSettings, StepFrame
from budmlx.types import (
    Completion,
    Event,
    ModelInfo,
    Request,
)

# What the model is called that runs when none is named.
DEMO_NAME = "budmlx-tiny"
# Prompts with more characters than this are tokenized off the event loop.
INLINE_CHARACTERS = 16_384


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
        self._host = open_host(settings, self._receive, config)
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
        """Like `chat`, but yields events as they come; the last is `Finished`.

        >>> events = list(engine.stream("Hi", temperature=0, max_tokens=4))
        >>> events[-1].reason
        'length'
        """
        return self.events(chat_request(messages, sampling))

    async def achat(self, messages: Messages, **sampling: Any) -> Completion:
        """`chat` for asyncio."""
        request = chat_request(messages, sampling)
        return self._completion(request, [event async for event in self.aevents(request)])

    def astream(self, messages: Messages, **sampling: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        return self.aevents(chat_request(messages, sampling))

    def complete(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        """Continue raw text or token ids, without a chat template.

        >>> engine.complete([5, 6, 7], temperature=0, max_tokens=2).usage.prompt_tokens
        3
        """
        return self._complete(prompt_request(prompt, sampling))

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
            for each in requests:
                events[self._submit(each, self._prompt(each), mailbox)] = []
            console = Console(stderr=True)
            bar = track(requests, "Generating", console=console, disable=not progress)
            for _ in bar:
                self._finish_one(mailbox, events)
        finally:
            for generation in events:
                self._release(generation)
        return [
            self._completion(request, done)
            for request, done in zip(requests, events.values(), strict=True)
        ]

    def _finish_one(self, mailbox: ThreadMailbox, events: dict[Generation, list[Event]]) -> None:
        """Wait until one more of the generations is over."""
        while True:
            generation, updates = mailbox.get()
            events[generation].extend(self._advance(generation, updates))
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
        generation = self._submit(request, self._prompt(request), mailbox)
        try:
            while not generation.over:
                yield from self._advance(*mailbox.get())
        finally:
            self._release(generation)

    async def aevents(self, request: Request) -> AsyncIterator[Event]:
        """`events` for asyncio; long prompts are tokenized off the event loop."""
        mailbox = LoopMailbox()
        # Only the tokenizing may run elsewhere: a caller that is cancelled meanwhile must not
        # leave a row behind.
        inline = request.characters <= INLINE_CHARACTERS
        ids = self._prompt(request) if inline else await asyncio.to_thread(self._prompt, request)
        generation = self._submit(request, ids, mailbox)
        try:
            while not generation.over:
                for event in self._advance(*await mailbox.get()):
                    yield event
        finally:
            self._release(generation)

    def warnings(self, request: Request) -> list[str]:
        """What of a request has no effect on this model."""
        unused = self._tokenizer.template().unused_kwargs(request.chat_template_kwargs)
        return [
            *without_unknown_ids(request.sampling, self.info.vocab_size)[1],
            *(f"{name} has no effect: the chat template does not use it." for name in unused),
        ]

    def _prompt(self, request: Request) -> list[int]:
        if self._closed:
            raise EngineClosedError("The engine is closed; load it again.")
        return prompt_ids(request, self._tokenizer, self.info)

    def _submit(self, request: Request, ids: list[int], mailbox: Mailbox) -> Generation:
        sampling, _ = without_unknown_ids(request.sampling, self.info.vocab_size)
        request = replace(request, sampling=sampling)
        row_ids = [next(self._ids) for _ in range(request.n)]
        eos_ids = {*self.info.eos_token_ids, *self._tokenizer.eos_token_ids}
        rows = core_requests(row_ids, ids, request, sorted(eos_ids))
        texts = {row.id: TextStream(self._tokenizer, sampling.stop, row.min_tokens) for row in rows}
        wanted = sampling.logprobs is not None
        readers = [LogprobReader(self._tokenizer) if wanted else None for _ in rows]
        generation = Generation(len(ids), texts, readers, mailbox)
        self._generations.update(dict.fromkeys(row_ids, generation))
        try:
            for row in rows:
                self._host.submit(row)
        except BudmlxError:
            self._release(generation)
            raise
        return generation

    def _advance(self, generation: Generation, updates: Sequence[Update]) -> Iterator[Event]:
        """Events of these updates; rows whose text has ended leave the core at once."""
        yield from generation.events(updates)
        for row_id in generation.ended():
            self._drop(generation, row_id)

    def _release(self, generation: Generation) -> None:
        for row_id in sorted(generation.running):
            self._drop(generation, row_id)
        for row_id in generation.row_ids:
            self._generations.pop(row_id, None)

    def _drop(self, generation: Generation, row_id: int) -> None:
        generation.running.discard(row_id)
        self._host.cancel(row_id)

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
        return self._completion(request, list(self.events(request)))

    def _completion(self, request: Request, events: Sequence[Event]) -> Completion:
        return completion(self.info.name, self.warnings(request), events)
