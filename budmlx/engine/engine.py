"""`Engine`: a model as a Python object, with or without a server around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from budmlx.config import Config
from budmlx.engine.asked import Prompt
from budmlx.engine.calls.procedures import adrive, drive
from budmlx.engine.hosts.host import HostStatus
from budmlx.engine.images.images import Images
from budmlx.engine.load.core_settings import core_settings
from budmlx.engine.load.directory import model_files
from budmlx.engine.load.hub import default_model_dir, resolve_model
from budmlx.engine.reply.completion import completion, with_parsed
from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.request.grammars import can_be_strict
from budmlx.engine.request.prepare import Preparation
from budmlx.engine.request.python_api import Messages, chat_request, prompt_request
from budmlx.engine.request.warnings import unused
from budmlx.engine.reuse.response_cache import Replies
from budmlx.engine.run.job import Job
from budmlx.engine.run.many import run_all
from budmlx.engine.run.runner import Runner
from budmlx.engine.run.sessions import beginning, run_session
from budmlx.engine.text.encoding import Encoding, TextMethods
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import EngineClosedError
from budmlx.model_identity import ModelIdentity
from budmlx.plugins.manager import Plugins
from budmlx.types import Completion, Event, ModelInfo, PrefixCacheStats, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

# What the model is called that runs when none is named.
DEMO_NAME = "budmlx-tiny"


class Engine(TextMethods):
    """A loaded model that answers chats. Thread-safe; one engine serves many callers.

    >>> with Engine.load(model_path) as engine:
    ...     reply = engine.chat("Say something.", temperature=0, max_tokens=8)
    ...     reply.finish_reason, reply.usage.completion_tokens
    ('length', 8)
    """

    def __init__(self, path: Path, name: str, config: Config, plugins: Plugins | None = None):
        """Load the directory `path` as `name`; `Engine.load` finds directories."""
        self.plugins = plugins or Plugins.load(config)
        self._tokenizer = Tokenizer.load(path)
        self._filters = self.plugins.added("add_output_filters")
        self._closed = False
        files = model_files(path)
        images = Images(self.plugins, self._tokenizer, files, config)
        settings = core_settings(files, name, config, self.plugins, images)
        store = None if config.cache == "off" else self.plugins.response_cache(config)
        self._parsers = Parsers.of(self.plugins, self._tokenizer, files.model_type, config)
        self._runner = Runner(settings, config, self._tokenizer, self.plugins, self._parsers)
        self.info: ModelInfo = self._runner.info
        self._preparation = Preparation(
            self.plugins, self._tokenizer, self._parsers, images, self.info
        )
        salt = f"{self.info.fingerprint} {ModelIdentity.read(path).listed()} {self.plugins.digest}"
        self._replies = Replies(store, config, salt)

    @classmethod
    def load(
        cls, model: str | Path | None = None, *, plugins: Sequence[object] = (), **settings: Any
    ) -> Engine:
        """Load a directory, a hub repository (`org/name`) or, with None, the demo model.

        plugins: names as in the setting `plugin`, or live objects, which need the thread
        host; they go before all others.
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
    def from_config(cls, config: Config, plugins: Sequence[object] = ()) -> Engine:
        """Load the model that `config` names. plugins: live objects; see `load`."""
        loaded = Plugins.load(config, plugins)
        if config.model is None:
            return cls(default_model_dir(), DEMO_NAME, config, loaded)
        path = resolve_model(config.model, config.revision)
        is_directory = Path(config.model).exists()
        name = path.resolve().name if is_directory else config.model
        return cls(path, name, config, loaded)

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
        if not self._closed:
            self._closed = True
            self._runner.host.close()
            self._replies.close()
            self.plugins.close()

    def status(self) -> HostStatus:
        """Whether requests make progress now."""
        return self._runner.host.status()

    def prefix_cache_stats(self) -> PrefixCacheStats:
        """How much of the prompts' KV was reused so far, and why not more."""
        return self._runner.remembered.stats

    # The Python API

    def chat(self, messages: Messages, **sampling: Any) -> Completion:
        """Answer a conversation.

        messages: a string (one user message), or messages as dicts in the
        chat-completions shape or as `Message`. sampling: fields of `SamplingParams`,
        `n`, `cache` (see `CachePolicy.of`) and `chat_template_kwargs`.

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
        reply = self._completion(request, [event async for event in self.aevents(request)])
        return with_parsed(reply, sampling.get("response_format"))

    def astream(self, messages: Messages, **sampling: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        return self.aevents(chat_request(messages, sampling))

    def complete(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        """Continue raw text or token ids, without a chat template.

        >>> engine.complete([5, 6, 7], temperature=0, max_tokens=2).usage.prompt_tokens
        3
        """
        request = prompt_request(prompt, sampling)
        return self._completion(request, list(self.events(request)))

    def chat_many(
        self, conversations: Iterable[Messages], *, progress: bool = True, **sampling: Any
    ) -> list[Completion]:
        """Answer many conversations as one batch, in order, with a progress bar.

        The first request that fails raises; the others are cancelled then.

        >>> [reply.finish_reason for reply in engine.chat_many(["a", "b"], max_tokens=2)]
        ['length', 'length']
        """
        requests = [chat_request(messages, sampling) for messages in conversations]
        with ExitStack() as stack:
            jobs = (
                stack.enter_context(self._job(*self._prepared(request), share=False))
                for request in requests
            )
            events = run_all(self._runner, jobs, progress=progress)
        return [
            self._completion(request, done) for request, done in zip(requests, events, strict=True)
        ]

    def apply_template(self, messages: Messages | Request, **options: Any) -> Encoding:
        """The prompt that `chat` would give the model, with the same arguments, at any length."""
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        return self._preparation.template(drive(self._preparation.fetched(request)))

    # Sessions

    def save_session(self, messages: Messages | Sequence[int], path: str | Path) -> int:
        """Write the KV of a long beginning, such as a book, to a file; returns its tokens.

        messages: as of `chat`, or token ids. Prompts that begin alike need not compute it after
        `load_session`, or on a server that is started with `--session`.

        Raises:
            InvalidRequestError: it cannot be saved; the message says why.
        """
        return run_session(self._runner, self._prepared(beginning(messages)), path, save=True)

    def load_session(self, path: str | Path) -> None:
        """Read a session of this model; it stays in memory until the engine is closed.

        Raises:
            InvalidRequestError: it cannot be used; the message says why.
        """
        run_session(self._runner, self._prepared(beginning([0])), path, save=False)

    # Requests

    def events(self, request: Request) -> Iterator[Event]:
        """Run a request; yields its events. Closing the iterator cancels it.

        Raises:
            InvalidRequestError, ContextLengthError: before anything is computed.
            EngineUnavailableError, RequestFailedError: as terminal event.
            EngineClosedError: the engine was closed before.
        """
        with self._job(*self._prepared(request)) as job:
            if (reply := drive(job.ticket.lookup())) is not None:
                yield from job.replayed(reply)
                return
            running = cast(
                "Generator[Event, None, None]", self._runner.events(job.request, job.prompt)
            )
            with closing(running):
                yield from map(job.note, running)

    async def aevents(self, request: Request) -> AsyncIterator[Event]:
        """`events` for asyncio; long prompts, and transforms of plugins, run off the event loop."""
        self._check_open()
        request = await adrive(self._preparation.fetched(request))
        if self._preparation.is_quick(request):
            prepared = self._preparation.prepared(request)
        else:
            prepared = await asyncio.to_thread(self._preparation.prepared, request)
        with self._job(*prepared) as job:
            if (reply := await adrive(job.ticket.lookup())) is not None:
                for event in job.replayed(reply):
                    yield event
                return
            running = cast(
                "AsyncGenerator[Event, None]", self._runner.aevents(job.request, job.prompt)
            )
            async with aclosing(running):
                async for event in running:
                    yield job.note(event)

    def warnings(self, request: Request) -> list[str]:
        """What of a request has no effect on this model."""
        warnings = unused(request, self._tokenizer, self.info.vocab_size)
        if any(tool.strict for tool in active_tools(request)) and not can_be_strict(self._parsers):
            warnings.append("strict has no effect: this model's calls are constrained when forced.")
        if self._filters and request.sampling.logprobs is not None:
            warnings.append("logprobs are left out, since an output filter may change the text.")
        if request.cache is not None and request.cache.write and not self._replies.enabled:
            warnings.append("cache has no effect: there is no response cache.")
        return warnings

    def with_ids(self, request: Request) -> Request:
        """The request for raw text with the ids of its prompt; raises what `events` would."""
        return replace(request, prompt=tuple(self._prepared(request)[1].ids))

    def _prepared(self, request: Request) -> tuple[Request, Prompt]:
        """The request as it runs, and its prompt."""
        self._check_open()
        return self._preparation.prepared(drive(self._preparation.fetched(request)))

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine is closed; load it again.")

    def _job(self, request: Request, prompt: Prompt, *, share: bool = True) -> Job:
        ticket = self._replies.ticket(request, prompt.ids, share=share)
        return Job(request, prompt, ticket, self.plugins, self.info.name)

    def _completion(self, request: Request, events: Sequence[Event]) -> Completion:
        return completion(self.info.name, self.warnings(request), events)
