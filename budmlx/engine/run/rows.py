"""Rows of a request: one for each choice, and the parts that turn its tokens into text.

The sampling parameters are resolved for one model here; those without effect cause warnings.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reply.answer import AnswerStops
from budmlx.engine.reply.budgets import Budgets, implied_budget, markup_of
from budmlx.engine.reply.generation import RowText
from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.reply.plugin_filters import FilterChain
from budmlx.engine.request.grammars import (
    can_be_strict,
    enforced_costs,
    grammar_of,
    is_forced,
    leaving_room,
    unenforced_formats,
    unenforced_texts,
)
from budmlx.engine.request.history import changes
from budmlx.engine.request.plugin_choices import PluginChoices
from budmlx.engine.request.prepare import exceeds
from budmlx.engine.reuse.tracker import ReuseTracker, Submission
from budmlx.engine.run.predictions import predicted_ids, without_effect
from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.logprobs import LogprobReader
from budmlx.errors import InvalidRequestError
from budmlx.logs import REQUEST
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.options import Vocabulary
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.protocol import GenerateRequest, Grammar, ReasoningMeter, SessionFile
from budmlx.types import ModelInfo, Request, SamplingParams

# Larger than any context; the core clamps it.
UNLIMITED = 2**62
NO_MARKUP = "how this model marks its reasoning, if there is any, is not known."
# Characters of a form, and of the schemas of tools, whose grammar is made within milliseconds; and
# of a prediction.
QUICK = 16_384
# Values that a warning lists; more would help nobody.
MOST_NAMED = 16


@dataclass(frozen=True, slots=True)
class BuiltRows:
    """The rows of a request, and the parts that make the text of each, by its id."""

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
        encode = partial(self._tokenizer.encode, add_special=False)
        self._choices = PluginChoices(plugins, Vocabulary(info.vocab_size, encode))
        self._eos_ids = sorted({*info.eos_token_ids, *self._tokenizer.eos_token_ids})
        self._budgets = Budgets(parsers, self._eos_ids)

    def foreign_plugins(self, request: Request) -> list[str]:
        """The plugins that the text of a reply goes through, without those that budmlx ships."""
        used = {each.plugin for each in self._filters} | {*self._parsers.used(request)}
        return [each for each in used if not self._plugins.ships(each)]

    def is_slow(self, request: Request) -> bool:
        """Whether `build` may take long, for a large grammar or a long prediction."""
        constrained = request.response_format is not None or active_tools(request)
        slow = bool(constrained) and exceeds(enforced_costs(request), QUICK)
        return slow or len(request.prediction) > QUICK

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
                reply cannot be constrained as requested.
            PluginError: an output filter or a parser cannot be made.
        """
        sampling, _ = without_unknown_ids(request.sampling, self._info.vocab_size)
        if self._filters:
            # The tokens would reveal what a filter hides.
            sampling = replace(sampling, logprobs=None)
        submission = Submission.of(request, prompt, shared=self._shared)
        submission = self._tracker.with_own_ids(submission, sampling.seed)
        owner = request.namespace
        request = replace(request, sampling=sampling, namespace=submission.namespace)
        chooses = sampling.sampler is not None or sampling.logits_processors
        sampler, processors = self._choices.calls(sampling) if chooses else (None, [])
        tail = self._parsers.tail(request, submission.prompt.ids)
        budget = None
        if sampling.max_reasoning_tokens is not None:
            budget = self._budgets.of(request, tail, sampling.max_reasoning_tokens)
        grammar = None
        if request.response_format is not None or active_tools(request):
            grammar = grammar_of(request, self._parsers, tail, budget=budget is not None)
            if budget is not None and grammar is not None:
                budget = leaving_room(budget, request)
        room = self._info.context_length - len(submission.prompt.ids)
        prediction: list[int] = []
        if request.prediction:
            prediction = predicted_ids(request, self._info, self._tokenizer)
        rows = [
            msgspec.structs.replace(
                row,
                max_tokens=min(row.max_tokens, room),
                sampler=sampler,
                processors=processors,
                reasoning=budget,
                prediction=prediction,
                session=session,
                owner=owner,
                background=request.priority == "background",
                request=REQUEST.get(),
            )
            for row in core_requests(
                row_ids, submission.prompt, self._for_core(request), self._eos_ids, grammar
            )
        ]
        texts = {row.id: self._row_text(request, tail, row) for row in rows}
        return BuiltRows(submission, rows, texts)

    def _for_core(self, request: Request) -> Request:
        """The request without token ids that end only the answer, which the core does not know."""
        if not self._eos_ids or not self._parsers.takes_reasoning(request):
            return request
        return replace(request, sampling=replace(request.sampling, stop_token_ids=()))

    def _row_text(self, request: Request, tail: str, row: GenerateRequest) -> RowText:
        min_tokens = row.min_tokens
        sampling, stop, stops = request.sampling, request.sampling.stop, None
        if (stop or sampling.stop_token_ids) and self._parsers.takes_reasoning(request):
            stops = AnswerStops(stop, sampling.stop_token_ids, min_tokens)
        answer = self._parsers.answer(request, tail, stops)
        return RowText(
            TextStream(
                self._tokenizer,
                stop if answer is None else (),
                min_tokens,
                self._parsers.visible(request),
            ),
            LogprobReader(self._tokenizer) if sampling.logprobs is not None else None,
            FilterChain(self._filters) if self._filters else None,
            self._parsers.reader(request, answer),
            answer,
            hide=request.reasoning == "hidden",
            meter=None if row.reasoning is None else ReasoningMeter(row.reasoning),
        )


def completion_bounds(request: Request, room: int) -> tuple[int, int]:
    """The most tokens of a choice, and the fewest with which it can do.

    Without a limit of its own it is content with what there is. room: what the context has.
    """
    sampling = request.sampling
    most = min(sampling.max_tokens or room, room)
    bound = sampling.max_tokens is not None or sampling.min_tokens < 0
    return most, most if bound else max(1, min(sampling.min_tokens, most))


def core_requests(
    row_ids: Sequence[int],
    prompt: TokenizedPrompt,
    request: Request,
    eos_ids: Sequence[int],
    grammar: Grammar | None = None,
) -> list[GenerateRequest]:
    """One row for each choice of a request. A seed is drawn if none is given.

    eos_ids: the model's end-of-sequence ids.
    """
    sampling = request.sampling
    if grammar is not None and sampling.ignore_eos:
        raise InvalidRequestError(
            "ignore_eos cannot be combined with a form that the reply must have: it says where "
            "the reply ends.",
            param="ignore_eos",
        )
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_ids)}
    first = GenerateRequest(
        id=row_ids[0],
        prompt_ids=prompt.ids,
        images=list(prompt.images),
        checkpoints=list(prompt.checkpoints),
        retained=list(prompt.retained),
        sampling=_without_resolved(sampling),
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        max_tokens=sampling.max_tokens or UNLIMITED,
        min_tokens=UNLIMITED if sampling.min_tokens < 0 else sampling.min_tokens,
        stop_ids=sorted(stops),
        grammar=grammar,
        fork=row_ids[0] if len(row_ids) > 1 else 0,
        namespace=request.namespace,
        adapter=request.adapter,
        speculation=request.speculation,
    )
    return [
        msgspec.structs.replace(first, id=row_id, choice=choice)
        for choice, row_id in enumerate(row_ids)
    ]


def _without_resolved(sampling: SamplingParams) -> SamplingParams:
    """The parameters without those that `GenerateRequest` has in its own fields.

    Texts that stop are found in the decoded text, which the core never sees.
    """
    return replace(
        sampling,
        seed=None,
        max_tokens=None,
        min_tokens=0,
        stop=(),
        stop_token_ids=(),
        ignore_eos=False,
        sampler=None,
        logits_processors=(),
        max_reasoning_tokens=None,
    )


def without_unknown_ids(sampling: SamplingParams, vocab: int) -> tuple[SamplingParams, list[str]]:
    """Drop token ids outside the vocabulary; they must never reach the core.

    Returns the parameters and a warning for each that lost something: documented client
    code sends such ids, so they are not an error.
    """
    warnings = []
    bias = tuple((token, value) for token, value in sampling.logit_bias if 0 <= token < vocab)
    if lost := len(sampling.logit_bias) - len(bias):
        warnings.append(f"logit_bias: {lost} token ids outside the vocabulary were ignored.")
    stops = tuple(token for token in sampling.stop_token_ids if 0 <= token < vocab)
    if lost := len(sampling.stop_token_ids) - len(stops):
        warnings.append(f"stop_token_ids: {lost} ids outside the vocabulary were ignored.")
    if not warnings:
        return sampling, []
    return replace(sampling, logit_bias=bias, stop_token_ids=stops), warnings


@dataclass(frozen=True, slots=True)
class RequestWarnings:
    """Makes the warnings of a model. filtered: output filters may change the text.

    cached: there is a response cache. sees: the model takes pictures. drafting: rows of it may
    draft tokens.
    """

    parsers: Parsers
    vocab_size: int
    filtered: bool
    cached: bool
    sees: bool = True
    drafting: bool = True

    def of(self, request: Request) -> list[str]:
        """A sentence for each part of a request that has no effect."""
        _, warnings = without_unknown_ids(request.sampling, self.vocab_size)
        template = self.parsers.tokenizer.template(tools=bool(active_tools(request)))
        if request.messages is None:
            unread = [*(["tools"] if request.tools else []), *request.chat_template_kwargs]
            if request.sampling.max_reasoning_tokens is not None:
                unread.append("max_reasoning_tokens")
            warnings += [f"{name} has no effect on raw text." for name in unread]
        else:
            unread = [*template.unused_kwargs(request.chat_template_kwargs)]
            limits = implied_budget(request, self.parsers)[1] if unread else ()
            warnings += [
                f"{name} has no effect: the chat template does not use it."
                for name in unread
                if name not in limits
            ]
            if request.sampling.max_reasoning_tokens is not None and not markup_of(self.parsers):
                warnings.append("max_reasoning_tokens has no effect: " + NO_MARKUP)
            if request.messages and not template.takes(request.messages):
                warnings += changes(template, request.messages)
            _, effort = template.with_known_effort(request.chat_template_kwargs)
            warnings += [effort] if effort else []
        if request.shows_images and not self.sees:
            warnings += _left_out(request)
        strict = any(tool.strict for tool in active_tools(request))
        free = strict and not is_forced(request) and request.response_format is None
        if free and not can_be_strict(self.parsers):
            warnings.append("strict has no effect: this model's calls are constrained when forced.")
        if request.response_format is not None and is_forced(request):
            warnings.append("`response_format` has no effect on a reply that must be a call.")
        enforces = request.response_format is not None or request.tools
        if enforces and (formats := unenforced_formats(request, self.parsers)):
            listed = ", ".join(formats[:MOST_NAMED])
            warnings.append(f"format has no effect where it is one of these: {listed}.")
        if request.tools and (texts := unenforced_texts(request, self.parsers)):
            listed = ", ".join(texts[:MOST_NAMED])
            warnings.append(f"The form of these is not enforced in this model's calls: {listed}.")
        if request.reasoning == "raw" and self.parsers.takes_reasoning(request):
            warnings.append("reasoning raw has no effect beside a form, which is all the content.")
        if self.filtered and request.sampling.logprobs is not None:
            warnings.append("logprobs are left out, since an output filter may change the text.")
        if request.cache is not None and request.cache.write and not self.cached:
            warnings.append("cache has no effect: there is no response cache.")
        if request.prediction and (problem := without_effect(request, drafting=self.drafting)):
            warnings.append(problem)
        return warnings


def _left_out(request: Request) -> list[str]:
    """A sentence on each message whose pictures are left out."""
    return [
        f"The pictures of messages[{number}] were left out: this model takes text only."
        for number, message in enumerate(request.messages or ())
        if message.shows_images
    ][:MOST_NAMED]
