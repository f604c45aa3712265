"""Rows that draft as many tokens as chance says, while others come and go, against rows alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from budmlx.core.batch.drafting import Drafting
from budmlx.core.batch.plan import Result
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.checkpoints import CheckpointReuse
from budmlx.core.schedule.view import GroupView
from budmlx.protocol import GenerateRequest
from budmlx.protocol.counts import Source
from tests.amount import examples, usually
from tests.core.architectures import ARCHITECTURES, MORE, WINDOW
from tests.core.driver import Driver, load, request
from tests.core.speculate.test_speculation import FILTERS, Speculating
from tests.models import tiny_model_dir

NAMES = ("llama", "gemma3_text", "gpt_oss", "cohere2", "deepseek_v3", "deepseek_v32", "olmo3")
BYTES = 2**28
TOKENS = 2 * WINDOW
LENGTHS = (2, 5, WINDOW, 40, 3, 70, 17, WINDOW + 1)
AGAIN = 100
"""What is added to the number of a row that goes on after it was cancelled."""


class Saying:
    """Says how many tokens groups draft."""

    def __init__(self, counts: Iterator[int]):
        self._counts = counts

    def drafted(self, groups: Sequence[GroupView]) -> list[Drafting]:
        return [Drafting({row.id: next(self._counts) for row in group.rows}) for group in groups]

    def learn(self, result: Result) -> dict[Source, int]:
        """What steps take makes no difference."""
        return {}


def reuse(model: Model) -> BlockReuse | CheckpointReuse:
    if model.info.needs_checkpoints:
        return CheckpointReuse(BYTES)
    return BlockReuse(model, BYTES, block=8, least=1)


@cache
def alone(name: str) -> tuple[Model, list[GenerateRequest], dict[int, list[int]]]:
    """A model, rows, and what they say alone and without drafts."""
    config = {**ARCHITECTURES, **MORE}[name]
    model = load(tiny_model_dir(config, scale=3.0, seed=5), speculation=8)
    rng, rows, said = random.Random(name), [], {}
    for number, length in enumerate(LENGTHS):
        prompt = [rng.randrange(3, 400) for _ in range(length)]
        params = FILTERS[number % len(FILTERS)]
        row = request(number, prompt, seed=number, max_tokens=TOKENS, **params)
        plain = Driver(model, prefill_chunk=16)
        plain.submit(replace(row, speculation=False))
        plain.run()
        rows.append(row)
        said[number] = plain.tokens[number]
    return model, rows, {**said, **{AGAIN + number: tokens for number, tokens in said.items()}}


class Company(Speculating):
    """Rows that come and go. counts: how many tokens each step drafts."""

    def __init__(self, name: str, counts: list[int], right: float):
        model, self.rows, self.truth = alone(name)
        super().__init__(
            model, self.truth, right, gaps=0.1, prefill_chunk=16, reuse=reuse(model), speculation=8
        )
        self.scheduler._speculation = Saying(cycle(counts))
        self._came = 0

    def join(self) -> None:
        if self._came < len(self.rows):
            self.submit(self.rows[self._came])
            self._came += 1

    def leave(self, number: int, *, again: bool) -> None:
        """A row is cancelled, and goes on as a new one: its state was stored."""
        going = [row for row in self.rows[: self._came] if row.id not in self.reasons]
        if not going:
            return
        row = going[number % len(going)]
        said = self.tokens[row.id]
        self.scheduler.cancel(row.id)
        self.reasons[row.id] = "cancelled"
        if again and said:
            self.submit(replace(row, id=AGAIN + row.id, emitted_ids=list(said)))

    def check(self) -> None:
        assert self.failed == {}
        for number, tokens in self.tokens.items():
            before = len(self.tokens[number - AGAIN]) if number >= AGAIN else 0
            want = self.truth[number][before:]
            assert tokens == (want if self.reasons[number] == "length" else want[: len(tokens)])


OPERATIONS = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 6)),
    st.tuples(st.just("join"), st.integers(1, 3)),
    st.tuples(st.just("leave"), st.integers(0, 7)),
    st.tuples(st.just("again"), st.integers(0, 7)),
)


@pytest.mark.parametrize("name", usually({"llama", "gemma3_text"}.__contains__, NAMES))
@settings(deadline=None, max_examples=examples(6), suppress_health_check=list(HealthCheck))
@given(
    counts=st.lists(st.sampled_from([0, 0, 1, 2, 4, 8]), min_size=1, max_size=8),
    right=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    operations=st.lists(OPERATIONS, min_size=3, max_size=14),
)
def test_any_schedule_gives_the_same_tokens(
    name: str, counts: list[int], right: float, operations: list[tuple[str, int]]
) -> None:
    company = Company(name, counts, right)
    for operation, number in operations:
        if operation == "steps":
            company.turns(number)
        elif operation == "join":
            for _ in range(number):
                company.join()
        else:
            company.leave(number, again=operation == "again")
    company.run()
    company.check()


@pytest.mark.parametrize("name", usually({"llama", "gpt_oss"}.__contains__, NAMES))
def test_what_is_stored_after_drafts_is_what_was_said(name: str) -> None:
    """In the middle of a batch whose rows do not end together."""
    company = Company(name, [4], right=0.5)
    for _ in range(4):
        company.join()
    while len(company.tokens[3]) < TOKENS // 2:
        company.turn()
    company.leave(3, again=True)
    company.run()
    company.check()
    again = [token for frame in company.frames for token in frame.tokens if token.id == AGAIN + 3]
    assert again[0].cached == LENGTHS[3]
