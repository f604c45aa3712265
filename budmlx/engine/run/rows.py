"""Rows of a request: what the core runs for each choice, and what makes text of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from budmlx.engine.prompt import Submission, TokenizedPrompt
from budmlx.engine.reply.generation import RowText
from budmlx.engine.reply.parsers import Parsers
from budmlx.engine.reply.plugin_filters import FilterChain
from budmlx.engine.request.core_requests import core_requests, without_unknown_ids
from budmlx.engine.request.grammars import grammar_of
from budmlx.engine.request.plugin_choices import PluginChoices
from budmlx.engine.reuse.tracker import ReuseTracker
from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.logprobs import LogprobReader
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.protocol import GenerateRequest, SessionFile
from budmlx.types import ModelInfo, Request


@dataclass(frozen=True, slots=True)
class BuiltRows:
    """The rows of a request, with what makes text of each, by its id."""

    submission: Submission
    rows: list[GenerateRequest]
    texts: dict[int, RowText]


class RowBuilder:
    """Builds the rows of requests to one model. shared: API keys reuse each other's KV."""

    def __init__(
        self,
        info: ModelInfo,
        plugins: Plugins,
        parsers: Parsers,
        tracker: ReuseTracker,
        *,
        shared: bool,
    ):
        self._info = info
        self._plugins = plugins
        self._tokenizer = parsers.tokenizer
        self._parsers = parsers
        self._tracker = tracker
        self._shared = shared
        self._filters: list[Owned[OutputFilterFactory]] = plugins.added("add_output_filters")
        self._choices = PluginChoices(plugins)
        self._eos_ids = sorted({*info.eos_token_ids, *self._tokenizer.eos_token_ids})

    def foreign_plugins(self, request: Request) -> list[str]:
        """The plugins that the text of a reply goes through, without those that budmlx ships."""
        used = {each.plugin for each in self._filters} | {*self._parsers.used(request)}
        return [each for each in used if not self._plugins.ships(each)]

    def build(
        self,
        request: Request,
        prompt: TokenizedPrompt,
        row_ids: Sequence[int],
        session: SessionFile | None = None,
    ) -> BuiltRows:
        """One row for each choice. session: to be saved or loaded.

        Raises:
            InvalidRequestError: a chosen sampler or processor is unknown or misused, or the
                reply cannot be constrained as asked.
            PluginError: an output filter or a parser cannot be made.
        """
        sampling, _ = without_unknown_ids(request.sampling, self._info.vocab_size)
        if self._filters:
            # The tokens would tell what a filter hides.
            sampling = replace(sampling, logprobs=None)
        submission = Submission.of(request, prompt, shared=self._shared)
        submission = self._tracker.with_own_ids(submission, sampling.seed)
        owner = request.namespace
        request = replace(request, sampling=sampling, namespace=submission.namespace)
        sampler, processors = self._choices.sampler(sampling), self._choices.processors(sampling)
        tail = self._parsers.tail(submission.prompt.ids)
        grammar = grammar_of(request, self._parsers, tail)
        rows = [
            msgspec.structs.replace(
                row, sampler=sampler, processors=processors, session=session, owner=owner
            )
            for row in core_requests(row_ids, submission.prompt, request, self._eos_ids, grammar)
        ]
        texts = {row.id: self._row_text(request, tail, row.min_tokens) for row in rows}
        return BuiltRows(submission, rows, texts)

    def _row_text(self, request: Request, tail: str, min_tokens: int) -> RowText:
        sampling, visible = request.sampling, self._parsers.visible(request)
        return RowText(
            TextStream(self._tokenizer, sampling.stop, min_tokens, visible),
            LogprobReader(self._tokenizer) if sampling.logprobs is not None else None,
            FilterChain(self._filters) if self._filters else None,
            self._parsers.reader(request, tail),
            hide=request.reasoning == "hidden",
        )
