"""Decisions: how likely each of several answers is, by what the model would say."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from budmlx.engine.procedures import Procedure, drive, off_loop
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.run.odds import Question, logprobs
from budmlx.engine.run.origin import RequestOrigin, calling
from budmlx.engine.run.pipeline import RequestOutcome, RequestPipeline
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.plugins.manager import Plugins
from budmlx.types import Finished, Request, Timing, Usage

MOST_CHOICES = 128
END = -1
"""Stands for the end of a reply among token ids."""

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """How likely each choice is, compared with the others.

    probabilities: they add up to 1. mass: how likely the reply begins as one of the choices
    does, of all that the model could say; where it is small, the prompt does not ask for them.
    """

    choices: tuple[str, ...]
    probabilities: tuple[float, ...]
    mass: float
    usage: Usage
    timing: Timing

    @property
    def choice(self) -> str:
        """The most likely choice."""
        return self.choices[self.probabilities.index(max(self.probabilities))]


class Decider:
    """Makes decisions by one model."""

    def __init__(self, pipeline: RequestPipeline, tokenizer: Tokenizer, plugins: Plugins):
        self._pipeline = pipeline
        self._tokenizer = tokenizer
        self._plugins = plugins
        ends = {*pipeline.dispatcher.info.eos_token_ids, *tokenizer.eos_token_ids}
        self._ends = sorted(ends)

    def run(
        self,
        requests: Sequence[Request],
        choices: Sequence[str],
        origin: RequestOrigin | None,
        places: Sequence[str] = (),
    ) -> Procedure[list[Decision]]:
        """The decision of each request between the same choices.

        places: what each request is called in an error, if there are several.

        A choice is what the reply would be, token by token: at each place where choices part,
        the model's probabilities of the tokens that go on with one of them are compared.

        Raises:
            InvalidRequestError: there are too few or too many choices, or two are the same.
            ContextLengthError: a prompt leaves no room for the choices.
        """
        paths = self._paths(choices)
        info = self._pipeline.dispatcher.info
        begin = time.monotonic()
        with RequestOutcome(self._plugins, info.name, origin or calling()) as outcome:
            # One prompt may be quick to render; many are not.
            prepared = yield from off_loop(partial(self._prepared, requests, places))
            counts = [len(prompt.ids) for _, prompt in prepared]
            yield from outcome.reserve(sum(counts))
            odds = yield from self._odds([Question(*each, tokens=()) for each in prepared], paths)
            timing = Timing(0.0, time.monotonic() - begin, 0.0)
            outcome.note(Finished((), Usage(sum(counts), 0), timing))
        return [
            Decision(tuple(choices), *_compared(paths, own), Usage(count, 0), timing)
            for own, count in zip(odds, counts, strict=True)
        ]

    def _prepared(
        self, requests: Sequence[Request], places: Sequence[str]
    ) -> list[tuple[Request, TokenizedPrompt]]:
        found = []
        for number, request in enumerate(requests):
            try:
                found.append(drive(self._pipeline.prepared(_without_thinking(request))))
            except ContextLengthError as error:
                if not places:
                    raise
                name = places[number]
                raise ContextLengthError(f"`{name}`: {error.message}", param=name) from error
        return found

    def _paths(self, choices: Sequence[str]) -> list[Path]:
        """The token ids of each choice."""
        if not 2 <= len(choices) <= MOST_CHOICES:
            raise InvalidRequestError(
                f"`choices` must have 2 to {MOST_CHOICES} items.", param="choices"
            )
        paths = [tuple(self._tokenizer.encode(each, add_special=False)) for each in choices]
        for number, path in enumerate(paths):
            if not path or path in paths[:number]:
                problem = "is empty" if not path else "is there twice"
                raise InvalidRequestError(
                    f"`choices[{number}]` {problem}.", param=f"choices[{number}]"
                )
        return paths

    def _odds(
        self, prompts: Sequence[Question], paths: Sequence[Path]
    ) -> Procedure[list[dict[Path, dict[int, float]]]]:
        """For each prompt, by the beginning of choices, the logprobs of what may follow it."""
        forks = _forks(paths)
        first, deeper = [()], [fork for fork in forks if fork]
        found: list[dict[Path, dict[int, float]]] = [{} for _ in prompts]
        # What is computed of a prompt for its first question serves the others.
        for level in (first, deeper):
            asked = [(number, fork) for number in range(len(prompts)) for fork in level]
            if not asked:
                continue
            questions = [self._question(prompts[n], fork, forks[fork]) for n, fork in asked]
            told = yield from logprobs(self._pipeline, questions)
            for (number, fork), known in zip(asked, told, strict=True):
                found[number][fork] = self._with_end(known, forks[fork])
        return found

    def _question(self, prompt: Question, fork: Path, tokens: Sequence[int]) -> Question:
        ids = [*prompt.prompt.ids, *fork]
        context = self._pipeline.dispatcher.info.context_length
        if len(ids) >= context:
            raise ContextLengthError(
                f"The prompt and a choice have {len(ids)} tokens; at most {context - 1} fit.",
                param="choices",
            )
        known = [token for token in tokens if token != END]
        return Question(
            prompt.request,
            replace(prompt.prompt, ids=ids),
            [*known, *(self._ends if END in tokens else [])],
        )

    def _with_end(self, known: Mapping[int, float], tokens: Sequence[int]) -> dict[int, float]:
        """The logprobs with that of the end, which is that of any token that ends a reply."""
        own = {token: known[token] for token in tokens if token != END}
        if END in tokens:
            own[END] = _log_sum([known[token] for token in self._ends])
        return own


def _without_thinking(request: Request) -> Request:
    """The request whose reply begins with the answer, where the template can ask for that."""
    if request.messages is None:
        return request
    kwargs = {"enable_thinking": False, **request.chat_template_kwargs}
    return replace(request, chat_template_kwargs=kwargs)


def _forks(paths: Sequence[Path]) -> dict[Path, list[int]]:
    """The beginnings of choices after which several tokens may follow, and the first one of all."""
    nexts: dict[Path, list[int]] = {}
    for path in paths:
        for place, token in enumerate((*path, END)):
            tokens = nexts.setdefault(path[:place], [])
            if token not in tokens:
                tokens.append(token)
    return {path: tokens for path, tokens in nexts.items() if len(tokens) > 1 or not path}


def _compared(
    paths: Sequence[Path], odds: Mapping[Path, Mapping[int, float]]
) -> tuple[tuple[float, ...], float]:
    """The probability of each choice, and the mass of all of them."""
    logs = [sum(_steps(path, odds)) for path in paths]
    total = _log_sum(logs)
    if total == -math.inf:  # all are impossible, and none more than others
        return (1 / len(paths),) * len(paths), 0.0
    mass = math.exp(_log_sum(list(odds[()].values())))
    return tuple(math.exp(each - total) for each in logs), min(mass, 1.0)


def _steps(path: Path, odds: Mapping[Path, Mapping[int, float]]) -> Iterator[float]:
    """The logprob of a choice at each place where it parts from others."""
    for place, token in enumerate((*path, END)):
        known = odds.get(path[:place])
        if known is not None and token in known:
            total = _log_sum(list(known.values()))
            yield known[token] - total if total > -math.inf else -math.inf


def _log_sum(logs: Sequence[float]) -> float:
    largest = max(logs, default=-math.inf)
    if largest == -math.inf:
        return largest
    return largest + math.log(sum(math.exp(each - largest) for each in logs))
