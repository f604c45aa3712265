"""The request of `POST /v1/completions`, from JSON to `types.Request`s: one for each prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from budmlx.engine.request.tools import parse_response_format
from budmlx.engine.text.encoding import check_ids
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.declared import described
from budmlx.server.dialects.openai.messages import Int
from budmlx.server.dialects.openai.sampling import MAX_CHOICES, GenerationRequest
from budmlx.types import Choice, Completion, Request

MAX_PROMPTS = 128
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

Prompt = str | list[int]


def _check_prompt(value: Any) -> Any:
    """A string, token ids, or a list of either."""
    if isinstance(value, str):
        return value
    if (ids := _ids(value)) is not None:
        return ids
    if isinstance(value, list) and 0 < len(value) <= MAX_PROMPTS:
        prompts = [prompt if isinstance(prompt, str) else _ids(prompt) for prompt in value]
        if None not in prompts:
            return prompts
    raise PydanticCustomError(
        "prompt",
        "Input should be a string, a list of token ids, or a list of up to "
        f"{MAX_PROMPTS} of either",
    )


def _ids(value: Any) -> list[int] | None:
    """A list of integers, which JSON may write as 1.0; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    ids = [int(i) if type(i) is float and i.is_integer() else i for i in value]
    return ids if all(type(i) is int for i in ids) else None


class CompletionRequest(GenerationRequest):
    """The body. Several prompts are answered as if they were one: choices are numbered through."""

    prompt: Annotated[Prompt | list[Prompt], BeforeValidator(_check_prompt)]
    max_tokens: Annotated[Int, Field(ge=1), described("max_tokens")] = DEFAULT_MAX_TOKENS
    best_of: Annotated[Int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool = False
    logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

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

    def check(self, *, streaming: bool, vocab_size: int) -> None:
        """Refuse what cannot be done. Raises InvalidRequestError naming the parameter."""
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
            n=self.candidates,
            response_format=parse_response_format(self.response_format),
            reasoning="raw",
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
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
