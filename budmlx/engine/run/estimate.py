"""Estimates: what a request would take, without running it."""

from __future__ import annotations

from dataclasses import replace

from budmlx.engine.procedures import FutureWait, Procedure
from budmlx.engine.run.pipeline import RequestPipeline
from budmlx.protocol import with_image_keys
from budmlx.types import Estimate, Request

ANSWER_SECONDS = 5.0
"""A core that is busy with a long pass answers after it; then nothing is known to be stored."""


def estimated(pipeline: RequestPipeline, request: Request) -> Procedure[Estimate]:
    """What the request would take now. Raises InvalidRequestError, ContextLengthError."""
    request, prompt = yield from pipeline.preparation.run(replace(request, n=1))
    built = pipeline.rows.build(request, prompt, pipeline.dispatcher.new_ids(1))
    host, row = pipeline.dispatcher.host, built.rows[0]
    keys = with_image_keys(row.prompt_ids, row.images) if row.images else row.prompt_ids
    # The last token is computed in any case, since its logits are needed.
    answer = host.prefixes.ask(row.namespace, keys[:-1])
    yield FutureWait(answer, ANSWER_SECONDS)
    cached = answer.result() if answer.done() and not answer.cancelled() else 0
    status = host.status()
    longest = min(status.budget.longest_row or len(keys), pipeline.dispatcher.info.context_length)
    return Estimate(
        prompt_tokens=len(keys),
        cached_tokens=cached,
        max_tokens=max(0, min(row.max_tokens, longest - len(keys))),
        fits=len(keys) < longest,
        running=status.running,
        waiting=status.waiting,
        expected_wait=pipeline.pace.wait(len(keys) - cached, status.running, status.waiting),
    )
