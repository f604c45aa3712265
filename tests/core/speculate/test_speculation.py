"""What rows say with drafts against what they say without, token by token."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.protocol import GenerateRequest, Grammar, PluginCall, RowFailed, Token
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, MORE, PLACED, SCALES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

MOST = 4
LETTERS = Grammar(source="start: /[a-h ]+/", param="response_format")
WORDS = Grammar(source='start: ("yes" | "no" | "perhaps ")+ "."', param="response_format")
TOKENS = 30
EOS = [0, 2]
CANCELLED = 200
COUNTING = "tests.core.plugin_samples:Counting"
FILTERS: Sequence[Mapping[str, Any]] = (
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 40},
    {"temperature": 0.7, "min_p": 0.05, "logit_bias": ((9, 2.0),)},
    {"temperature": 1.5, "typical_p": 0.8},
)
WINDOWED = ("gemma3_text", "ministral3", "gpt_oss", "cohere2")
DRAFTING = (
    *("llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "phi3", "deepseek_v3"),
    *WINDOWED,
    *MORE,
)


class Scripted:
    """Drafts what a row will say, each token of it right with a given probability.

    gaps: the share of steps in which it has no draft.
    """

    chance = 0.5
    source = "ngram"

    def __init__(self, row: Row, truth: Sequence[int], right: float, gaps: float = 0.0):
        self._gaps = gaps
        self._row, self._truth, self._right = row, truth, right
        self._rng = random.Random(row.id)

    def draft(self, count: int, ahead: Sequence[int] = ()) -> list[int]:
        if self._rng.random() < self._gaps:
            return []
        begin = self._row.produced + len(ahead)
        coming = self._truth[begin : begin + max(count, 0)]
        return [t if self._rng.random() < self._right else (t + 1) % 512 for t in coming]

    def follow(self, token: int) -> None:
        """It knows what comes."""


class Speculating(Driver):
    """A driver whose rows draft what they are going to say. right: how much of it is right."""

    def __init__(
        self,
        model: Model,
        truth: Mapping[int, Sequence[int]],
        right: float,
        gaps: float = 0.0,
        **more: Any,
    ):
        super().__init__(model, **{"speculation": MOST, **more})
        self._gaps = gaps
        self._truth, self._right, self._add = truth, right, self.executor.add
        self.executor.add = self._scripted  # type: ignore[method-assign]

    def _scripted(self, row: Row) -> RowFailed | None:
        failed = self._add(row)
        if row.drafts is not None:
            row.drafts = Scripted(row, self._truth.get(row.id, ()), self._right, self._gaps)
        return failed


def outcome(driver: Driver) -> dict[int, list[Token]]:
    """Everything that was said of each row that was not cancelled."""
    said: dict[int, list[Token]] = {row_id: [] for row_id in driver.tokens}
    for token in (token for frame in driver.frames for token in frame.tokens):
        if token.id in said:
            said[token.id].append(token)
    return said


def assert_same(with_drafts: Driver, without: Driver) -> None:
    assert with_drafts.failed == without.failed == {}
    assert with_drafts.tokens == without.tokens
    assert with_drafts.reasons == without.reasons
    said, wanted = outcome(with_drafts), outcome(without)
    for row_id, tokens in said.items():
        for token, want in zip(tokens, wanted[row_id], strict=True):
            assert token.logprob == (want.logprob and pytest.approx(want.logprob, abs=1e-4))
            assert [i for i, _ in token.top] == [i for i, _ in want.top]


def most_at_once(driver: Driver) -> int:
    """Most tokens that a row got in one step."""
    counts = [[t.id for t in frame.tokens] for frame in driver.frames]
    return max(ids.count(row_id) for ids in counts for row_id in ids)


def mixed(seed: int) -> list[GenerateRequest]:
    """Rows with all filters, of several lengths, some of which cannot draft."""
    rng = random.Random(seed)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(3, 400) for _ in range(length)]

    rows = [
        request(i, prompt(rng.choice([2, 5, 17, 40, 70])), seed=i, max_tokens=TOKENS, **changes)
        for i, changes in enumerate(FILTERS)
    ]
    more: Sequence[Mapping[str, Any]] = (
        {"logprobs": 3, "temperature": 1.0},
        {"frequency_penalty": 0.5, "temperature": 1.0},
        {"repetition_penalty": 1.3, "repetition_window": 20},
        {"repetition_penalty": 1.3, "repetition_window": 3},
        {"grammar": LETTERS, "stop_ids": EOS, "temperature": 1.0, "logprobs": 0},
        {"grammar": WORDS, "stop_ids": EOS, "temperature": 1.0},
        {"stop_ids": list(range(3, 60)), "min_tokens": 7, "temperature": 1.0},
        {"sampler": PluginCall(plugin="one", name="Counting", core=COUNTING), "max_tokens": 20},
    )
    count = len(rows)
    rows += [
        request(count + i, prompt(12 + i), seed=i, **{"max_tokens": TOKENS, **changes})
        for i, changes in enumerate(more)
    ]
    forked = prompt(9)
    choices = [request(90 + c, forked, fork=5, choice=c, temperature=1.0) for c in range(3)]
    return [*rows, *choices]


def play(driver: Driver, rows: Sequence[GenerateRequest]) -> None:
    """Rows join and leave midway; one is cancelled."""
    rows = list(rows)
    random.Random(len(rows)).shuffle(rows)
    for position, row in enumerate(rows):
        if row.fork and row.choice:
            continue
        driver.submit(*([each for each in rows if each.fork == row.fork] if row.fork else [row]))
        driver.turns(position % 4)
        if position == 5:
            driver.submit(replace(row, id=CANCELLED, fork=0))
            driver.turns(2)
            driver.scheduler.cancel(CANCELLED)
            del driver.tokens[CANCELLED]
    driver.run()


def without_drafts(model: Model, rows: Sequence[GenerateRequest], **more: Any) -> Driver:
    driver = Driver(model, **more)
    play(driver, [replace(row, speculation=False) for row in rows])
    return driver


@pytest.mark.parametrize(
    ("name", "right", "bits"),
    usually(
        [
            ("llama", 0.0, 8),
            ("llama", 0.5, None),
            ("deepseek_v3", 1.0, None),
            ("gemma3_text", 0.5, None),
            ("gpt_oss", 1.0, None),
            ("deepseek_v32", 0.5, None),
        ].__contains__,
        [
            *product(DRAFTING, [0.0, 0.5, 1.0], [None]),
            *product(["llama", "qwen3"], [0.0, 0.5, 1.0], [8, 4]),
        ],
    ),
)
def test_tokens_are_the_same_with_and_without_drafts(
    name: str, right: float, bits: int | None
) -> None:
    config = {**ARCHITECTURES, **MORE}[name]
    path = tiny_model_dir(config, scale=SCALES.get(name, 3.0), seed=5)
    model = load(path, speculation=MOST, kv_bits=bits)
    rows = mixed(seed=3)
    without = without_drafts(model, rows, prefill_chunk=16)
    speculating = Speculating(model, without.tokens, right, prefill_chunk=16)
    play(speculating, rows)
    assert_same(speculating, without)
    assert len(speculating.frames) < len(without.frames) or not right
    drafts = [frame.drafts for frame in speculating.frames if frame.drafts is not None]
    tokens, accepted = sum(d.tokens for d in drafts), sum(d.accepted for d in drafts)
    assert tokens > 100 and (right * tokens > accepted > 0 or accepted == right * tokens)
    # A step with drafts brings the token of the step before it, too.
    assert most_at_once(speculating) >= MOST + 1 or not right


@pytest.mark.parametrize(
    ("name", "right"),
    usually([("gemma3_text", 0.5)].__contains__, product(WINDOWED, [0.0, 0.5, 1.0])),
)
def test_rows_with_windows_draft_alone_and_together(name: str, right: float) -> None:
    path = tiny_model_dir(ARCHITECTURES[name], scale=SCALES.get(name, 3.0), seed=5)
    model = load(path, speculation=MOST)
    rng = random.Random(7)
    rows = [
        request(
            i, [rng.randrange(3, 400) for _ in range(length)], seed=i, max_tokens=90, **FILTERS[i]
        )
        for i, length in enumerate((3, 40, 70, 5, 30))
    ]

    def played(driver: Driver, speculation: bool) -> Driver:
        asked = [replace(row, speculation=speculation) for row in rows]
        for row in asked[:2]:
            driver.submit(row)
            driver.run()
        driver.submit(asked[2])
        driver.turns(7)
        # They are alone, together, and alone again.
        driver.submit(asked[3], replace(asked[4], max_tokens=20))
        driver.run()
        return driver

    without = played(Driver(model, prefill_chunk=16), speculation=False)
    # Plain steps come after passes whose tokens were taken back.
    drafting = Speculating(model, without.tokens, right, gaps=0.3, prefill_chunk=16)
    assert_same(played(drafting, speculation=True), without)
    drafts = [frame.drafts for frame in drafting.frames if frame.drafts is not None]
    assert sum(each.tokens for each in drafts) > 50
    assert bool(sum(each.accepted for each in drafts)) == bool(right)


@pytest.mark.parametrize("name", ["llama4", "mamba", "falcon_h1", "recurrent_gemma", "rwkv7"])
def test_models_whose_state_cannot_be_taken_back_say_so(name: str) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name]), speculation=4)
    assert model.info.speculation == "unsupported"


def test_attention_that_reads_places_drafts_nothing() -> None:
    assert load(tiny_model_dir(PLACED), speculation=4).info.speculation == "unsupported"
