"""Rows for which a draft model drafts, against what they say without, token by token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from budmlx.core.model.draft_model import DraftModel
from budmlx.core.model.model import Model
from budmlx.core.speculate.drafts import Drafts
from budmlx.errors import ModelLoadError
from budmlx.protocol import DraftModelSettings, GenerateRequest
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.core.driver import Driver, load, request
from tests.core.speculate.test_speculation import FILTERS, MOST, assert_same, mixed, play
from tests.models import tiny_model_dir

SEEDS = {"itself": 5, "another": 6}
KINDS = ("llama", "qwen3_moe", "deepseek_v3")


@pytest.fixture(autouse=True)
def no_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the draft model knows anything."""
    monkeypatch.setattr(Drafts, "_look_up", lambda self: None)


def tiny(name: str = "llama", seed: int = 5) -> Path:
    return tiny_model_dir(ARCHITECTURES[name], scale=SCALES.get(name, 3.0), seed=seed)


def with_draft_model(path: Path, drafter: Path, **settings: object) -> Model:
    named = DraftModelSettings(path=str(drafter), name="drafter")
    return load(path, **{"speculation": MOST, "draft_model": named, **settings})


def drafted(driver: Driver) -> tuple[int, int]:
    """Tokens that were drafted, and those of them that were accepted."""
    counts = [frame.drafts for frame in driver.frames if frame.drafts is not None]
    return sum(each.tokens for each in counts), sum(each.accepted for each in counts)


def unlike(rows: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    return [replace(row, speculation=False) for row in rows]


def of_lengths(*lengths: int) -> list[GenerateRequest]:
    rng = random.Random(7)
    return [
        request(i, [rng.randrange(3, 400) for _ in range(length)], seed=i, max_tokens=40, **filters)
        for i, (length, filters) in enumerate(zip(lengths, FILTERS, strict=False))
    ]


@pytest.mark.parametrize(
    ("name", "drafter", "bits"),
    usually(
        [
            ("llama", "itself", None),
            ("llama", "another", 8),
            ("deepseek_v3", "itself", None),
        ].__contains__,
        [
            (name, drafter, bits)
            for name in KINDS
            for drafter in SEEDS
            for bits in ([None, 8] if name == "llama" else [None])
        ],
    ),
)
def test_tokens_are_the_same_with_and_without_a_draft_model(
    name: str, drafter: str, bits: int | None
) -> None:
    model = with_draft_model(tiny(name), tiny(name, SEEDS[drafter]), kv_bits=bits)
    rows = mixed(seed=3)
    without = Driver(model, prefill_chunk=16)
    play(without, unlike(rows))
    drafting = Driver(model, prefill_chunk=16, speculation=MOST)
    play(drafting, rows)
    assert_same(drafting, without)
    tokens, accepted = drafted(drafting)
    assert tokens > 200
    if drafter == "itself":
        # Penalties and grammars are not drafted with.
        assert accepted > 0.7 * tokens and len(drafting.frames) < len(without.frames)
    else:
        assert accepted < 0.3 * tokens


def test_what_a_model_drafts_for_itself_comes_true() -> None:
    model = with_draft_model(tiny(), tiny())
    for row in of_lengths(1, 3, 40, 70, 5, 30):
        without = Driver(model)
        without.submit(replace(row, speculation=False))
        without.run()
        alone = Driver(model, speculation=MOST)
        alone.submit(row)
        alone.run()
        assert_same(alone, without)
        tokens, accepted = drafted(alone)
        assert accepted == tokens > 20, row


def test_rows_together_are_drafted_for_in_one_batch() -> None:
    model = with_draft_model(tiny(), tiny())
    rows = of_lengths(2, 3, 40, 70, 5, 30)
    without, together = Driver(model), Driver(model, speculation=MOST)
    for driver, asked in ((without, unlike(rows)), (together, rows)):
        driver.submit(*asked)
        driver.run()
    assert_same(together, without)
    tokens, accepted = drafted(together)
    assert accepted == tokens > 100


def test_long_prompts_are_taken_in_beside_several_steps() -> None:
    model = with_draft_model(tiny(), tiny(), prefill_chunk=32)
    row = replace(of_lengths(200)[0], max_tokens=60)
    without, drafting = Driver(model), Driver(model, speculation=MOST)
    for driver, asked in ((without, unlike([row])), (drafting, [row])):
        driver.submit(*asked)
        driver.run()
    assert_same(drafting, without)
    steps = [frame.drafts is not None for frame in drafting.frames if frame.tokens]
    assert not any(steps[:5]) and all(steps[8:-1])


def test_a_row_that_comes_back_is_drafted_for_again() -> None:
    model = with_draft_model(tiny(), tiny())
    [row] = of_lengths(30)
    without, drafting = Driver(model), Driver(model, speculation=MOST)
    without.submit(replace(row, speculation=False))
    without.run()
    # As after a crash: another core goes on after what was delivered.
    begun = without.tokens[0][:9]
    drafting.submit(replace(row, emitted_ids=begun))
    drafting.run()
    assert [*begun, *drafting.tokens[0]] == without.tokens[0]
    tokens, accepted = drafted(drafting)
    assert accepted == tokens > 20


def test_a_draft_model_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_draft_model(tiny(), tiny())
    rows = of_lengths(20, 9)
    without, drafting = Driver(model), Driver(model, speculation=MOST)
    without.submit(*unlike(rows))
    without.run()
    calls, forward = iter(range(100)), DraftModel.__call__

    def failing(*arguments: Any) -> Any:
        if next(calls) == 12:
            raise ValueError("it is broken")
        return forward(*arguments)

    monkeypatch.setattr(DraftModel, "__call__", failing)
    drafting.submit(*rows)
    drafting.run()
    assert_same(drafting, without)
    assert next(calls) == 13 and 0 < drafted(drafting)[1] < 40


def test_what_cannot_draft_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"drafter cannot draft: its caches .*Rotating"):
        with_draft_model(tiny(), tiny("gemma3_text"))
    with pytest.raises(ModelLoadError, match="tiny has a draft model, drafter, but speculation is"):
        with_draft_model(tiny(), tiny(), speculation=0)
    with pytest.raises(ModelLoadError, match="not possible with its caches"):
        with_draft_model(tiny("mamba"), tiny())


def test_memory_counts_the_draft_model() -> None:
    alone = load(tiny(), speculation=MOST, memory_limit=20_000_000).memory
    both = with_draft_model(tiny(), tiny(), memory_limit=20_000_000).memory
    assert both.weights == 2 * alone.weights
    assert both.rectangle([300, 20]) == 2 * alone.rectangle([300, 20])
    assert both.row(300) == alone.row(300)
    assert both.longest_row(10**6, 64) < alone.longest_row(10**6, 64)


def test_rows_that_know_texts_do_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_draft_model(tiny(), tiny())
    called = list[int]()
    forward = DraftModel.__call__

    def counted(self: DraftModel, tokens: Any, cache: Any) -> Any:
        called.append(tokens.shape[0])
        return forward(self, tokens, cache)

    monkeypatch.setattr(DraftModel, "__call__", counted)
    rows = of_lengths(20, 9)
    without = Driver(model)
    without.submit(*unlike(rows))
    without.run()
    told = [replace(row, prediction=without.tokens[row.id]) for row in rows]
    drafting = Driver(model, speculation=MOST)
    drafting.submit(*told)
    drafting.run()
    assert_same(drafting, without)
    tokens, accepted = drafted(drafting)
    assert accepted == tokens > 40 and not called
