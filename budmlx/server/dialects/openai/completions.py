"""`POST /v1/completions`: its body, and the handler that continues raw texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.engine.run.concurrent_requests import as_one
from budmlx.engine.text.encoding import check_ids
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.declared import described
from budmlx.server.dialects.openai.body import PromptId
from budmlx.server.dialects.openai.completions_reply import TextCompletion, TextReply
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.dialects.openai.reply import server_sent
from budmlx.server.dialects.openai.sampling import MAX_CHOICES, GenerationRequest
from budmlx.server.endpoints import EndpointTable
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.server.wire import ErrorMessage, Int
from budmlx.types import Choice, Completion, Event, Request

MAX_PROMPTS = 128
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

endpoints = EndpointTable("/v1", ERRORS)

_Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
_Ids = Annotated[list[PromptId], Field(min_length=1)]
Prompt = _Text | _Ids
Prompts = Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]
_EXPECTED = ErrorMessage(
    f"Input should be a string, a list of token ids, or a list of up to {MAX_PROMPTS} of either",
    kind="prompt",
)


class CompletionRequest(GenerationRequest):
    """The body. Several prompts are answered as if they were one: choices are numbered through."""

    prompt: Annotated[Prompt | Prompts, _EXPECTED] = Field(
        description="Text or token ids to continue, or a list of either, each answered by itself."
    )
    max_tokens: Annotated[Int, Field(ge=1), described("max_tokens")] = DEFAULT_MAX_TOKENS
    best_of: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="Generate so many and return the `n` most likely; not for streams."
    )
    echo: bool = Field(False, description="Begin each choice with its prompt; not with `logprobs`.")
    logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        None, description="Report log probabilities of the tokens of the reply."
    )

    @property
    def prompts(self) -> dict[str, Prompt]:
        """Every prompt, by its place in the request."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return {"prompt": self.prompt}
        return {f"prompt[{i}]": prompt for i, prompt in enumerate(self.prompt)}

    @property
    def candidates(self) -> int:
        """How many texts are generated for each prompt."""
        return self.n if self.best_of is None else self.best_of

    def check(self, *, streaming: bool) -> None:
        """Refuse what no model does. Raises InvalidRequestError naming the parameter."""
        if self.candidates < self.n:
            raise InvalidRequestError("`best_of` must not be smaller than `n`.", param="best_of")
        if self.candidates > self.n and streaming:
            raise InvalidRequestError(
                "`best_of` larger than `n` cannot be streamed: the best are known at the end.",
                param="best_of",
            )
        if self.echo and self.logprobs is not None:
            raise InvalidRequestError(
                "`echo` cannot be combined with `logprobs`: those of prompts are not computed.",
                param="echo",
            )

    def check_ids(self, vocab_size: int) -> None:
        """Refuse ids that a model does not have. Raises InvalidRequestError naming the prompt."""
        for place, prompt in self.prompts.items():
            if not isinstance(prompt, str):
                check_ids(prompt, vocab_size, place)

    def to_requests(self) -> list[Request]:
        """The same as plain values. Raises InvalidRequestError for combinations."""
        logprobs = self.logprobs
        if logprobs is None and self.candidates > self.n:
            logprobs = 0  # to choose by
        request = Request(
            prompt="",
            sampling=self.sampling(
                max_tokens=self.max_tokens, min_tokens=self.min_tokens, logprobs=logprobs
            ),
            given=frozenset(self.model_fields_set),
            n=self.candidates,
            response_format=None
            if self.response_format is None
            else self.response_format.to_format(),
            reasoning="raw",
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
            speculation=self.speculation,
        )
        return [
            replace(request, prompt=prompt if isinstance(prompt, str) else tuple(prompt))
            for prompt in self.prompts.values()
        ]

    def chosen(self, done: Completion) -> Completion:
        """The reply with the `n` best choices of each prompt, the best one first."""
        if self.candidates == self.n:
            return done
        groups = (
            done.choices[first : first + self.candidates]
            for first in range(0, len(done.choices), self.candidates)
        )
        best = (sorted(group, key=_mean_logprob, reverse=True)[: self.n] for group in groups)
        return replace(done, choices=tuple(choice for group in best for choice in group))


def _mean_logprob(choice: Choice) -> float:
    if not choice.logprobs:
        return -math.inf
    return sum(entry.logprob for entry in choice.logprobs) / len(choice.logprobs)


@endpoints.post(
    "/v1/completions",
    "Continue raw text",
    CompletionRequest,
    reply=TextCompletion,
    streamed=server_sent(TextCompletion),
)
async def completions(request: web.Request) -> web.StreamResponse:
    """Continue one prompt or several, as JSON or as a stream of events."""
    return await _answered(request, *await parsed(request, CompletionRequest.parse))


async def answer_line(request: LineRequest, body: dict[str, Any], size: int) -> web.StreamResponse:
    """Continue prompts that came in a file."""
    return await _answered(request, await off_loop(size, CompletionRequest.parse, body), size)


async def _answered(request: AnyRequest, body: CompletionRequest, size: int) -> web.StreamResponse:
    streaming = body.wants_stream(request.headers)
    warnings = body.review(streaming=streaming, strict=request.app[CONFIG].strict)
    model = await find_model(request, body.model)
    body.check(streaming=streaming)
    _check_places(body, request.app[IN_FLIGHT].limit)
    own = partial(
        replace,
        namespace=request.get(NAMESPACE, ""),
        priority=priority_of(request, body.priority, low=body.low_priority),
        adapter=body.adapter_of(model),
    )
    requests = [own(each) for each in body.to_requests()]
    reply = TextReply(body, warnings, logprobs=body.logprobs is not None)

    async def run(engine: Engine) -> answer.Events:
        body.check_ids(engine.info.vocab_size)
        await off_loop(size, reply.loaded, engine, requests[0])
        ready = await off_loop(size, _with_ids, body, engine, requests)
        reply.echoes = await off_loop(size, _echoes, body, engine)
        return as_one([(each.n, engine.aevents(each, request.get(ORIGIN))) for each in ready])

    if streaming and isinstance(request, web.Request):
        return await answer.streamed(request, model, reply, run, places=len(requests))

    def collect(events: Sequence[Event]) -> Completion:
        return body.chosen(completion(model.name, warnings, events))

    return await answer.whole(request, model, reply, run, collect, places=len(requests))


def _check_places(body: CompletionRequest, limit: int) -> None:
    if (count := len(body.prompts)) > limit:
        raise InvalidRequestError(
            f"`prompt` has {count} prompts; this server takes at most {limit} at once.",
            param="prompt",
        )


def _with_ids(
    body: CompletionRequest, engine: Engine, requests: Sequence[Request]
) -> list[Request]:
    """The requests, ready to run, so that what is wrong with one is known before any runs."""
    result = []
    for place, each in zip(body.prompts, requests, strict=True):
        try:
            result.append(engine.with_ids(each))
        except InvalidRequestError as exc:
            exc.param = place if exc.param == "prompt" else exc.param
            raise
    return result


def _echoes(body: CompletionRequest, engine: Engine) -> list[str]:
    """The texts of the prompts, if they are to be echoed."""
    if not body.echo:
        return []
    return [p if isinstance(p, str) else engine.detokenize(p) for p in body.prompts.values()]
