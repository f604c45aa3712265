"""Drawing among candidates, drawing from the whole vocabulary, and both in one batch."""

from __future__ import annotations

import io
import re
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.row import Row
from budmlx.core.sample import candidates, filters
from budmlx.core.sample.draw import Draws
from budmlx.core.sample.filters import BLOCKS
from budmlx.core.sample.sampling import RowSampling
from budmlx.protocol import PluginCall
from tests.core.driver import request
from tests.core.sample.test_sampling import kept, reference, sample

VOCAB = 5 * BLOCKS[-1]
RANKED = [{"top_p": 0.9}, {"top_k": 5}, {"top_p": 0.99, "top_k": 700}, {"top_p": 0.8, "min_p": 0.1}]
WHOLE: list[dict[str, Any]] = [{}, {"min_p": 0.1}, {"typical_p": 0.7}]


def drawn(i: int, **changes: Any) -> Any:
    return request(i, [1], **{"temperature": 0.8, "seed": 100 + i, **changes})


def test_a_row_draws_the_same_tokens_alone_and_in_any_batch() -> None:
    """Also where its nucleus reaches beyond the candidates, and with many equal logits."""
    mx.random.seed(5)
    vocab = 4 * VOCAB - 3
    logits, rows = [], []
    for i, spread in enumerate([0.5, 1.0, 2.0, 3.0, 8.0] * 8):
        chosen = [*RANKED, *WHOLE, {"temperature": 0.0}, {"top_p": 0.999}][i % 9]
        rows.append(drawn(i, **chosen))
        logits.append(mx.round(mx.random.normal((vocab,)) * spread * 2) / 2)
    alone = [sample([row], x[None]).tokens.item() for row, x in zip(rows, logits, strict=True)]
    assert sample(rows, mx.stack(logits)).tokens.tolist() == alone
    for part in (slice(1, None, 3), slice(None, None, -2)):
        assert sample(rows[part], mx.stack(logits[part])).tokens.tolist() == alone[part]


@pytest.mark.parametrize("changes", [{"top_k": 700}, {"top_p": 0.6}, {"top_p": 0.7, "top_k": 1000}])
def test_more_tokens_than_candidates_are_drawn_in_proportion(changes: dict[str, float]) -> None:
    mx.random.seed(6)
    row, draws = mx.random.normal((VOCAB,)) * 0.3, 3000
    rows = [drawn(i, temperature=2.0, **changes) for i in range(draws)]
    tokens = np.array(sample(rows, mx.broadcast_to(row, (draws, VOCAB))).tokens)
    allowed = reference(rows[0], row)
    assert allowed.sum() > BLOCKS[-1] + 100 and allowed[tokens].all()
    best_first = np.argsort(-np.array(row))[: allowed.sum()]
    weights = np.exp(np.array(row)[best_first] / 2)
    want = np.array([x.sum() for x in np.array_split(weights / weights.sum(), 10)]) * draws
    rank = np.empty(VOCAB, dtype=int)
    rank[best_first] = np.concatenate(
        [np.full(len(x), i) for i, x in enumerate(np.array_split(best_first, 10))]
    )
    seen = np.bincount(rank[tokens], minlength=10)
    # 0.9999 quantile of chi-square with 9 degrees of freedom.
    assert ((seen - want) ** 2 / want).sum() < 33.7


@pytest.mark.parametrize("vocab", [64, VOCAB])
@pytest.mark.parametrize("top_p", [0.0, 1e-6])
def test_a_tiny_nucleus_is_the_most_likely_token(top_p: float, vocab: int) -> None:
    logits = mx.random.normal((20, vocab))
    rows = [drawn(i, temperature=2.0, top_p=top_p) for i in range(20)]
    assert sample(rows, logits).tokens.tolist() == mx.argmax(logits, axis=-1).tolist()


@pytest.mark.parametrize("vocab", [64, VOCAB])
@pytest.mark.parametrize("free", [0, 1, 2, 40])
def test_banned_tokens_are_never_drawn(vocab: int, free: int) -> None:
    generator = np.random.default_rng(free)
    rows = [drawn(i, temperature=2.0, **(RANKED + WHOLE)[i % 7]) for i in range(140)]
    logits = np.full((140, vocab), -np.inf, dtype=np.float32)
    for row in logits:
        row[generator.choice(vocab, free, replace=False)] = generator.normal(size=free)
    result = sample(rows, mx.array(logits))
    assert result.finite.tolist() == [free > 0] * 140
    tokens = np.array(result.tokens)
    assert (tokens < vocab).all(), "a token outside the vocabulary would crash the next step"
    assert free == 0 or (logits[np.arange(140), tokens] > -np.inf).all()


@pytest.mark.parametrize("vocab", [64, VOCAB])
def test_equal_logits_share_a_nucleus_but_not_the_places_of_top_k(vocab: int) -> None:
    logits = np.zeros((4, vocab), dtype=np.float32)
    logits[:, 3] = 9
    rows = [drawn(0, top_p=0.999), drawn(1, top_k=6), drawn(2, top_k=1), drawn(3, top_p=0.9)]
    mine = kept(rows, mx.array(logits))
    want = np.array([reference(row, mx.array(logits[i])) for i, row in enumerate(rows)])
    assert mine.sum(axis=-1).tolist() == want.sum(axis=-1).tolist()
    assert mine[:, 3].all()
    many = [drawn(i, temperature=2.0, top_k=6) for i in range(300)]
    flat = mx.array(logits[0] / 10)
    tokens = sample(many, mx.broadcast_to(flat, (300, vocab))).tokens.tolist()
    assert set(tokens) == set(np.flatnonzero(mine[1]).tolist())


@pytest.mark.parametrize("offset", [-512.0, 512.0])
def test_only_differences_of_logits_count(offset: float) -> None:
    mx.random.seed(9)
    logits = mx.round(mx.random.normal((4, VOCAB)) * 16) / 4
    rows = [drawn(i, temperature=1.0, **x) for i, x in enumerate(RANKED)]
    assert (kept(rows, logits) == kept(rows, logits + offset)).all()


SORTS = {"Sort", "ArgSort", "Partition", "ArgPartition"}


def primitives(*rows: dict[str, Any], vocab: int = VOCAB) -> set[str]:
    """MLX's names of what must be computed to draw for these rows."""
    logits = mx.random.normal((len(rows), vocab))
    mx.eval(logits)
    text = io.StringIO()
    mx.export_to_dot(text, *sample([drawn(i, **x) for i, x in enumerate(rows)], logits).arrays)
    return set(re.findall(r'label ?="([A-Za-z]+)"', text.getvalue()))


def test_what_nobody_uses_is_not_computed() -> None:
    greedy = primitives({"temperature": 0.0, "top_p": 0.5}, {"temperature": 0.0})
    assert "ArgReduce" in greedy and not greedy & {"Multiply", "Log", "View"}
    whole = primitives({}, {"temperature": 2.0})
    assert "Log" in whole and not whole & {"GatherAxis", "Scan", "LessEqual"}


@pytest.mark.parametrize("vocab", [600, VOCAB, 40_000])
def test_nothing_is_sorted_and_nobody_waits(vocab: int) -> None:
    rows = [drawn(i, **changes) for i, changes in enumerate([*RANKED, *WHOLE, {"top_k": 600}])]
    logits = mx.random.normal((len(rows), vocab))
    assert not primitives(*RANKED, *WHOLE, {"top_k": 600}, vocab=vocab) & SORTS
    # While it is traced, an array cannot be read.
    mx.compile(lambda x: sample(rows, x).tokens)(logits)


@pytest.mark.parametrize("changes", [{"top_k": 5}, {"top_k": 64, "top_p": 0.7}, {"top_k": 500}])
@pytest.mark.parametrize("vocab", [20_000, 20_005])
def test_candidates_decide_as_the_whole_vocabulary_does(
    changes: dict[str, float], vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where many logits are equal, and where few tokens are left."""
    mx.random.seed(3)
    logits = mx.round(mx.random.normal((24, vocab)) * 4) / 2
    logits = mx.where(mx.arange(24)[:, None] % 8 == 7, -mx.inf, logits)
    logits = mx.where(mx.arange(vocab) >= vocab - 3, 5.0, logits)
    rows = [drawn(i, **{"temperature": 2.0, "min_p": i % 2 * 0.01, **changes}) for i in range(24)]
    assert candidates.worthwhile(filters.kind_of(rows[0].sampling).blocks, vocab)
    quick = sample(rows, logits).tokens.tolist()
    allowed = kept(rows, logits)
    assert allowed[range(24), quick].all()
    monkeypatch.setattr(filters, "worthwhile", lambda *_: False)
    assert sample(rows, logits).tokens.tolist() == quick


def test_a_plugin_sampler_sees_what_its_row_may_draw_by_temperature() -> None:
    mx.random.seed(8)
    call = PluginCall(plugin="stranger", name="Least", core="tests.core.plugin_samples:Least")
    chosen: list[dict[str, Any]] = [*RANKED, *WHOLE, {"temperature": 0.0, "top_k": 4}]
    requests = [drawn(i, sampler=call, **x) for i, x in enumerate(chosen)]
    requests += [drawn(20, top_p=0.5), drawn(21), drawn(22, temperature=0.0)]
    logits = mx.random.normal((len(requests), VOCAB))
    rows = [Row.of(item) for item in requests]
    sampling = RowSampling(rows, VOCAB)
    drawn_tokens = sampling.sample(logits[:, None], mx.ones((len(rows), 1), dtype=mx.int32)).tokens
    tokens = drawn_tokens[:, 0].tolist()
    sampling.release()
    for i, row in enumerate(requests):
        if row.sampler is None:
            assert tokens[i] == sample([row], logits[i : i + 1]).tokens.item()
            continue
        allowed = np.array(Draws([row.sampling], [0]).allowed(logits[i : i + 1]))[0]
        want = np.where(allowed > -np.inf, np.array(logits[i]), np.inf)
        assert tokens[i] == want.argmin()
        least = rows[i].states[0]["least"].item()
        assert least == pytest.approx(want.min() / (row.sampling.temperature or 1), abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"top_k": 5}, {"top_p": 0.5}])
def test_at_the_least_temperature_all_numbers_stay_finite(changes: dict[str, float]) -> None:
    mx.random.seed(8)
    logits = mx.random.normal((1, VOCAB)) * 10
    draws = Draws([drawn(0, temperature=1e-45, **changes).sampling], [0])
    shown, usual = draws.allowed(logits), Draws([drawn(0, **changes).sampling], [0]).allowed(logits)
    assert mx.array_equal(mx.isfinite(shown), mx.isfinite(usual))
    tokens = sample([drawn(0, temperature=1e-45, **changes)], logits).tokens
    assert tokens.item() == logits.argmax().item()
