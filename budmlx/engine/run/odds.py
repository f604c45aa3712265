"""Odds: how likely certain tokens are to come next, by rows that draw a single token each."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from budmlx.engine.procedures import Mailbox, Procedure, off_loop
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reply.generation import Update, error_of
from budmlx.engine.run.pipeline import RequestPipeline
from budmlx.protocol import GenerateRequest, RowFailed
from budmlx.types import MAX_BIAS, RANGES, Request, SamplingParams

MOST_LIKELY = int(RANGES["logprobs"][1])
"""Tokens that a row tells of, the most likely ones."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the tokens that may follow it."""

    request: Request
    prompt: TokenizedPrompt
    tokens: Collection[int]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a question. forced: it draws this token, whose logprob is wanted; else any."""

    question: int
    forced: int | None = None


class _Draws:
    """The job of rows of which each draws one token."""

    def __init__(self, adapter: str, rows: Sequence[GenerateRequest]):
        self.adapter = adapter
        self.row_ids = [row.id for row in rows]
        self.running = set(self.row_ids)
        self.mailbox: Mailbox[Sequence[Update]] = Mailbox()

    def stamp_start(self, now: float) -> None:
        """Nobody asks when it began."""

    def deliver(self, updates: Sequence[Update], now: float) -> None:
        """Take what the core says. Called on the host's thread."""
        for update in updates:
            if isinstance(update, RowFailed) or update.reason is not None:
                self.running.discard(update.id)
        self.mailbox.put(updates)


def logprobs(
    pipeline: RequestPipeline, questions: Sequence[Question]
) -> Procedure[list[dict[int, float]]]:
    """The logprobs of the tokens of each question, by the model's own distribution.

    A row tells those that are among the most likely; the others are drawn, each by a row that can
    draw nothing else, and that reuses what is computed of the prompt.

    Raises:
        BudmlxError: a row failed.
    """
    found: list[dict[int, float]] = [{} for _ in questions]
    yield from _asked(pipeline, questions, [_Row(n) for n in range(len(questions))], found)
    missing = [
        _Row(number, token)
        for number, question in enumerate(questions)
        for token in question.tokens
        if token not in found[number]
    ]
    if missing:
        yield from _asked(pipeline, questions, missing, found)
    pairs = zip(questions, found, strict=True)
    return [{token: known[token] for token in question.tokens} for question, known in pairs]


def _asked(
    pipeline: RequestPipeline,
    questions: Sequence[Question],
    rows: Sequence[_Row],
    found: list[dict[int, float]],
) -> Procedure[None]:
    """Run rows, and note in `found`, by question, what they tell."""
    ids = pipeline.dispatcher.new_ids(len(rows))
    by_id = dict(zip(ids, rows, strict=True))
    built = yield from off_loop(
        lambda: [
            _built(pipeline, questions[row.question], row, row_id) for row_id, row in by_id.items()
        ]
    )
    job = _Draws(questions[0].request.adapter, built)
    pipeline.dispatcher.submit(job, built)
    left = len(rows)
    try:
        while left:
            for update in (yield from job.mailbox.receive()):
                if isinstance(update, RowFailed):
                    raise error_of(update)
                row, known = by_id[update.id], found[by_id[update.id].question]
                if row.forced is None:
                    known.update(update.top)
                else:
                    drawn = update.token == row.forced and update.logprob is not None
                    known[row.forced] = update.logprob or 0.0 if drawn else -math.inf
                left -= 1
    finally:
        pipeline.dispatcher.release(job)


def _built(
    pipeline: RequestPipeline, question: Question, row: _Row, row_id: int
) -> GenerateRequest:
    """The row for the core."""
    bias = () if row.forced is None else ((row.forced, float(MAX_BIAS)),)
    sampling = SamplingParams(temperature=0.0, max_tokens=1, logit_bias=bias)
    request = replace(question.request, sampling=sampling, n=1)
    built = pipeline.rows.build(request, question.prompt, [row_id]).rows[0]
    # What output filters hide is no matter: nothing is told but of tokens that were named.
    count = MOST_LIKELY if row.forced is None else 0
    return msgspec.structs.replace(
        built, sampling=replace(built.sampling, logprobs=count), stop_ids=[], min_tokens=0
    )
