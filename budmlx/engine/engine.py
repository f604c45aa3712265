"""`Engine`: a model as a Python object, with or without a server around it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from budmlx.backend import check_backend
from budmlx.config import Config
from budmlx.engine.assembly import assemble
from budmlx.engine.embed.methods import EmbeddingMethods
from budmlx.engine.ending import Ending
from budmlx.engine.hosts.host import HostStatus
from budmlx.engine.load.draft_model import find_draft_model
from budmlx.engine.load.hub import SHIPPED_MODEL, model_name, resolve_model
from budmlx.engine.procedures import Stream, adrive_stream, drive, drive_stream
from budmlx.engine.reply.completion import completion, with_parsed
from budmlx.engine.request.counts import TokenCounts
from budmlx.engine.request.python_api import Messages, chat_request, prompt_request
from budmlx.engine.run.adapters import AdapterMethods
from budmlx.engine.run.batch_methods import BatchMethods
from budmlx.engine.run.concurrent_requests import run_all
from budmlx.engine.run.estimate import estimated
from budmlx.engine.run.origin import RequestOrigin
from budmlx.engine.run.sessions import SessionMethods
from budmlx.engine.text.encoding import Encoding, TextMethods, encoding
from budmlx.errors import EngineClosedError
from budmlx.logs import Level
from budmlx.plugins.manager import Plugins
from budmlx.progress import Notice, Progress
from budmlx.protocol import MemoryBudget
from budmlx.types import Completion, Estimate, Event, ModelInfo, PrefixCacheStats, Request

DEMO_NAME = "budmlx-tiny"
"""The name of the model that runs when none is named."""
DEMO = "demo"
"""What it is called beside its name."""


class Engine(TextMethods, SessionMethods, AdapterMethods, EmbeddingMethods, BatchMethods):
    """A loaded model that answers chats. Thread-safe; one engine serves many callers.

    defaults: sampling parameters of requests that do not say them, and where each was set.

    >>> with Engine.load(model_path) as engine:
    ...     reply = engine.chat("Say something.", temperature=0, max_tokens=8)
    ...     reply.finish_reason, reply.usage.completion_tokens
    ('length', 8)
    """

    def __init__(
        self,
        path: Path,
        name: str,
        config: Config,
        plugins: Plugins | None = None,
        notice: Notice | None = None,
    ):
        """Load the directory `path` as `name`; `Engine.load` finds directories.

        config: with the settings of this model in place, see `Config.for_model`.
        notice: called with words while the model loads, on any thread.
        """
        self.plugins = plugins or Plugins.load(config)
        self._closed = False
        self._parts = assemble(path, name, config, self.plugins, notice)
        self._pipeline = self._parts.pipeline
        self._embeddings = self._parts.embeddings
        self._decider, self._ranker = self._parts.decider, self._parts.ranker
        self._tokenizer = self._parts.tokenizer
        self._counts = TokenCounts(self._pipeline.preparation)
        self._adapters = self._pipeline.dispatcher.adapters
        self.info: ModelInfo = self._pipeline.dispatcher.info
        self.defaults = self._parts.defaults
        self._owner = os.getpid()
        ends = self._pipeline.dispatcher.host.close, self._pipeline.cache.close, self.plugins.close
        self._ending = Ending(self, self.info.name, ends)

    @classmethod
    def load(
        cls, model: str | Path | None = None, *, plugins: Sequence[object] = (), **settings: Any
    ) -> Engine:
        """Load a directory, a hub repository (`org/name`) or, with None, the demo model.

        plugins: names as in the setting `plugin`, or live objects, which need the thread
        host; they take precedence over all others.
        settings: fields of `budmlx.config.Config`, such as `revision`, `memory_limit`,
        `max_rows`, or `engine_host="process"` to run the model in a child process.

        Raises:
            ModelLoadError: the model is missing or cannot be used.
            ConfigError: a setting is unknown or out of range, or a plugin cannot be loaded.
        """
        name = None if model is None else str(model)
        names = tuple(plugin for plugin in plugins if isinstance(plugin, str))
        if names:
            settings["plugin"] = (*names, *settings.get("plugin", ()))
        config = Config.of(**{"engine_host": "thread", **settings, "model": name})
        objects = [plugin for plugin in plugins if not isinstance(plugin, str)]
        return cls.from_config(config, objects)

    @classmethod
    def from_config(
        cls, config: Config, plugins: Sequence[object] = (), notice: Notice | None = None
    ) -> Engine:
        """Load the model that `config` names, see `Config.for_model`.

        plugins: live objects; see `load`. notice: called with words while the model loads, on
        any thread.
        """
        check_backend()
        config = config.for_model()
        loaded = Plugins.load(config, plugins)
        find_draft_model(config, config.models_dir, loaded.loaded_types)
        if config.model is None:
            return cls(SHIPPED_MODEL, DEMO_NAME, config, loaded, notice)
        path = resolve_model(
            config.model,
            config.revision,
            models_dirs=config.models_dir,
            own=loaded.loaded_types,
        )
        return cls(path, model_name(config.model), config, loaded, notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the core. Requests that still run raise EngineUnavailableError. Idempotent."""
        if not self._closed and os.getpid() == self._owner:
            self._closed = True
            self._ending.now()

    def status(self) -> HostStatus:
        """The state of the host: whether requests make progress now."""
        self._check_owner()
        return self._pipeline.dispatcher.host.status()

    def set_memory_limit(self, limit: int) -> Future[MemoryBudget]:
        """Bound the memory of the model by `limit` bytes; see `Host.set_memory_limit`."""
        self._check_owner()
        return self._pipeline.dispatcher.host.set_memory_limit(limit)

    def set_log_level(self, level: Level) -> None:
        """Change what the model's process logs, if it is one of its own."""
        self._pipeline.dispatcher.host.set_log_level(level)

    def prefix_cache_stats(self) -> PrefixCacheStats:
        """Counts of the KV that prompts reused so far, and of the reasons why it was not more."""
        return self._pipeline.tracker.stats

    # The Python API

    def chat(self, messages: Messages, **sampling: Any) -> Completion:
        """Answer a conversation.

        messages: a string (one user message), or messages as dicts in the
        chat-completions shape or as `Message`. sampling: fields of `SamplingParams`,
        `n`, `cache` (see `CachePolicy.of`), `adapter` (a name) and `chat_template_kwargs`.

        Raises:
            InvalidRequestError: a message or parameter is wrong; `param` names it.
            ContextLengthError: the prompt is longer than the context.

        >>> reply = engine.chat([{"role": "user", "content": "Hi"}], max_tokens=3, seed=1)
        >>> reply.usage.completion_tokens
        3
        """
        request = chat_request(messages, sampling)
        reply = self._completion(request, list(self.events(request)))
        return with_parsed(reply, sampling.get("response_format"))

    def stream(self, messages: Messages, **sampling: Any) -> Generator[Event, None, None]:
        """Like `chat`, but yields events as they come; the last is `Finished`.

        >>> events = list(engine.stream("Hi", temperature=0, max_tokens=4))
        >>> events[-1].reason
        'length'
        """
        return self.events(chat_request(messages, sampling))

    async def achat(self, messages: Messages, **sampling: Any) -> Completion:
        """`chat` for asyncio."""
        request = chat_request(messages, sampling)
        reply = self._completion(request, [event async for event in self.aevents(request)])
        return with_parsed(reply, sampling.get("response_format"))

    def astream(self, messages: Messages, **sampling: Any) -> AsyncGenerator[Event, None]:
        """`stream` for asyncio."""
        return self.aevents(chat_request(messages, sampling))

    def complete(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        """Continue raw text or token ids, without a chat template.

        suffix, among the options: text that is to follow, so that the reply stands between; see
        `Request`.

        >>> engine.complete([5, 6, 7], temperature=0, max_tokens=2).usage.prompt_tokens
        3
        """
        request = prompt_request(prompt, sampling)
        return self._completion(request, list(self.events(request)))

    def chat_many(
        self,
        conversations: Iterable[Messages],
        *,
        progress: bool | Progress = True,
        **sampling: Any,
    ) -> list[Completion]:
        """Answer many conversations as one batch, in order.

        progress: True shows a bar on stderr; a function is called with the number of replies
        that are done, and with that of all. The first request that fails raises; the others
        are cancelled then.

        >>> [reply.finish_reason for reply in engine.chat_many(["a", "b"], max_tokens=2)]
        ['length', 'length']
        """
        requests = [chat_request(messages, sampling) for messages in conversations]
        streams = [self._stream(request, together=True) for request in requests]
        events = run_all(streams, progress=progress)
        return [
            self._completion(request, done) for request, done in zip(requests, events, strict=True)
        ]

    def apply_template(self, messages: Messages | Request, **options: Any) -> Encoding:
        """The prompt that `chat` would give the model, with the same arguments, at any length."""
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        ids = drive(self._pipeline.preparation.template(request))
        return encoding(self._tokenizer, ids)

    def count_tokens(self, messages: Messages | Request, **options: Any) -> int:
        """The tokens of the prompt that `chat` would make, with the same arguments.

        >>> engine.count_tokens("Hi") == engine.chat("Hi", max_tokens=1).usage.prompt_tokens
        True
        """
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        return self._counts.of(request)

    def estimate(self, messages: Messages | Request, **options: Any) -> Estimate:
        """What `chat` would take now, with the same arguments; nothing is generated.

        Raises:
            InvalidRequestError, ContextLengthError: as `chat` does.
        """
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        return drive(estimated(self._pipeline, request))

    # Requests

    def events(self, request: Request) -> Generator[Event, None, None]:
        """Run a request; yields its events. Closing the generator cancels it.

        Raises:
            InvalidRequestError, ContextLengthError: before anything is computed.
            EngineUnavailableError, RequestFailedError: as terminal event.
            EngineClosedError: the engine was closed before.
        """
        return drive_stream(self._stream(request))

    def aevents(
        self, request: Request, origin: RequestOrigin | None = None
    ) -> AsyncGenerator[Event, None]:
        """`events` for asyncio; long prompts, and transforms of plugins, run off the event loop.

        origin: what `RequestRecord`s say of where the request came from.
        """
        return adrive_stream(self._stream(request, origin))

    def warnings(self, request: Request) -> list[str]:
        """Warnings about the parts of a request that have no effect on this model."""
        return self._parts.warnings.of(request)

    def with_ids(self, request: Request) -> Request:
        """The request for raw text with the ids of its prompt. Raises the errors of `events`."""
        self._check_open()
        _, prompt = drive(self._pipeline.prepared(request))
        return replace(request, prompt=tuple(prompt.ids))

    def _stream(
        self, request: Request, origin: RequestOrigin | None = None, *, together: bool = False
    ) -> Stream[Event]:
        self._check_open()
        yield from self._pipeline.run(request, origin, together=together)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine is closed; load it again.")
        self._check_owner()

    def _check_owner(self) -> None:
        """Refuse to wait for threads that a fork does not have."""
        if os.getpid() != self._owner:
            raise EngineClosedError("A fork cannot use this engine: load one here, or use 'spawn'.")

    def _completion(self, request: Request, events: Sequence[Event]) -> Completion:
        return completion(self.info.name, self.warnings(request), events)
