"""Requests on their way through a host: prompt ids in, events out."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from budmlx.config import ModelConfig, size_or_share
from budmlx.engine.asked import Asked, Prompt
from budmlx.engine.calls.plugin_calls import Calls, Containment
from budmlx.engine.calls.procedures import adrive, drive
from budmlx.engine.hosts.host import open_host
from budmlx.engine.reply.generation import Generation, RowText
from budmlx.engine.reply.mailbox import LoopMailbox, Mailbox, ThreadMailbox, Update
from budmlx.engine.reply.parsers import Parsers
from budmlx.engine.reply.plugin_filters import FilterChain
from budmlx.engine.request.core_requests import core_requests, without_unknown_ids
from budmlx.engine.request.grammars import grammar_of
from budmlx.engine.request.plugin_choices import Choices
from budmlx.engine.reuse.remembered import Remembered
from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.logprobs import LogprobReader
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import BudmlxError
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.protocol import CoreSettings, SessionFile, StepFrame
from budmlx.types import Event, Finished, Request


class Runner:
    """Submits rows to a host and hands what comes back to whoever asked. Thread-safe."""

    def __init__(
        self,
        settings: CoreSettings,
        config: ModelConfig,
        tokenizer: Tokenizer,
        plugins: Plugins,
        parsers: Parsers,
    ):
        """Open the host that the configuration names. Raises ModelLoadError."""
        self._tokenizer = tokenizer
        self._filters: list[Owned[OutputFilterFactory]] = plugins.added("add_output_filters")
        self._shared = config.prefix_cache_shared
        self._choices = Choices(plugins)
        self._plugins = plugins
        self._containment = Containment()
        self._parsers = parsers
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self.host = open_host(settings, self._receive, config)
        self.info = self.host.info
        reuses = size_or_share(config.prefix_cache) > 0
        context = self.info.context_length
        self.remembered = Remembered(
            tokenizer, context, enabled=reuses, states=self.info.needs_checkpoints
        )

    def events(
        self, request: Request, prompt: Prompt, session: SessionFile | None = None
    ) -> Iterator[Event]:
        """Run a request; closing the iterator cancels it. session: to be saved or loaded."""
        mailbox = ThreadMailbox()
        submit = partial(self.submit, request, prompt, mailbox, session)
        with self._calls(request) as calls:
            generation = drive(calls.run(submit, self.release))
            try:
                while not generation.over:
                    yield from drive(calls.items(self.advance(*mailbox.get())))
            finally:
                self.release(generation)

    async def aevents(self, request: Request, prompt: Prompt) -> AsyncIterator[Event]:
        """`events` for asyncio."""
        mailbox = LoopMailbox()
        submit = partial(self.submit, request, prompt, mailbox)
        with self._calls(request) as calls:
            generation = await adrive(calls.run(submit, self.release))
            try:
                while not generation.over:
                    updates = await mailbox.get()
                    for event in await adrive(calls.items(self.advance(*updates))):
                        yield event
            finally:
                self.release(generation)

    def _calls(self, request: Request) -> Calls:
        """How plugins are called for a request. Raises PluginError."""
        used = {each.plugin for each in self._filters} | {*self._parsers.used(request)}
        return self._containment.calls([each for each in used if not self._plugins.ships(each)])

    def submit(
        self,
        request: Request,
        prompt: Prompt,
        mailbox: Mailbox,
        session: SessionFile | None = None,
    ) -> Generation:
        """Queue the rows of a request. What comes of them arrives in the mailbox.

        Raises:
            InvalidRequestError: a chosen sampler or processor is unknown or misused, or the
                reply cannot be constrained as asked.
            PluginError: an output filter or a parser cannot be made.
            EngineUnavailableError, EngineClosedError: the host takes nothing.
        """
        sampling, _ = without_unknown_ids(request.sampling, self.info.vocab_size)
        if self._filters:
            # The tokens would tell what a filter hides.
            sampling = replace(sampling, logprobs=None)
        asked = Asked.of(request, prompt, shared=self._shared)
        asked = self.remembered.with_own_ids(asked, sampling.seed)
        prompt = asked.prompt
        owner = request.namespace
        request = replace(request, sampling=sampling, namespace=asked.namespace)
        sampler, processors = self._choices.sampler(sampling), self._choices.processors(sampling)
        tail = self._parsers.tail(prompt.ids)
        grammar = grammar_of(request, self._parsers, tail)
        row_ids = [next(self._ids) for _ in range(request.n)]
        eos_ids = {*self.info.eos_token_ids, *self._tokenizer.eos_token_ids}
        rows = [
            msgspec.structs.replace(
                row, sampler=sampler, processors=processors, session=session, owner=owner
            )
            for row in core_requests(row_ids, prompt, request, sorted(eos_ids), grammar)
        ]
        texts = {row.id: self._row_text(request, tail, row.min_tokens) for row in rows}
        generation = Generation(asked, texts, mailbox)
        self._generations.update(dict.fromkeys(row_ids, generation))
        try:
            for row in rows:
                self.host.submit(row)
        except BudmlxError:
            self.release(generation)
            raise
        return generation

    def _row_text(self, request: Request, tail: str, min_tokens: int) -> RowText:
        sampling, visible = request.sampling, self._parsers.visible(request)
        return RowText(
            TextStream(self._tokenizer, sampling.stop, min_tokens, visible),
            LogprobReader(self._tokenizer) if sampling.logprobs is not None else None,
            FilterChain(self._filters) if self._filters else None,
            self._parsers.reader(request, tail),
            hide=request.reasoning == "hidden",
        )

    def advance(self, generation: Generation, updates: Sequence[Update]) -> Iterator[Event]:
        """Events of these updates; rows whose text has ended leave the core at once."""
        for event in generation.events(updates):
            if isinstance(event, Finished):
                event = self.remembered.explained(generation.asked, event, generation.from_disk)
            yield event
        for row_id in generation.ended():
            self._drop(generation, row_id)

    def release(self, generation: Generation) -> None:
        """Forget a request; rows that still run leave the core. Idempotent."""
        for row_id in sorted(generation.running):
            self._drop(generation, row_id)
        known = [self._generations.pop(row_id, None) for row_id in generation.row_ids]
        if any(known):
            self.remembered.add(generation.asked, generation.spoken)

    def _drop(self, generation: Generation, row_id: int) -> None:
        generation.running.discard(row_id)
        self.host.cancel(row_id)

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
