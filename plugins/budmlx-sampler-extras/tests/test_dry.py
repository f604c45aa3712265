"""The DRY penalty against its definition, for windows, breakers, and lengths of all kinds."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from budmlx_sampler_extras import DRY, MAX_BREAKERS
from budmlx_sampler_extras.dry import LONGEST, Dry
from pydantic import ValidationError
from references import dry_penalties

from budmlx.plugins.specs import RowContext
from budmlx.testing import check_logits_processor

VOCAB = 40


def options(**given: Any) -> dict[str, Any]:
    return DRY.options.model_validate(given).model_dump(mode="json")


def penalties(texts: list[list[int]], rows: list[dict[str, Any]]) -> np.ndarray:
    """What is subtracted from the logits of texts whose last token is in flight."""
    dry = Dry()
    states = [dry.init(row) for row in rows]
    state = {name: mx.concatenate([one[name] for one in states]) for name in states[0]}
    last = mx.array([text[-1] for text in texts], dtype=mx.uint32)
    context = RowContext([text[:-1] for text in texts], last)
    out, after = dry.process(mx.zeros((len(texts), VOCAB)), state, context)
    assert all(after[name] is state[name] for name in state)
    return -np.array(out)


def expected(text: list[int], row: dict[str, Any]) -> np.ndarray:
    wanted = np.zeros(VOCAB)
    for token, penalty in dry_penalties(text, **row).items():
        wanted[token] = penalty
    return wanted


def test_penalties_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    some = 0
    for _ in range(200):
        count = int(rng.integers(1, 6))
        texts, rows = [], []
        for _ in range(count):
            kinds = int(rng.integers(1, 6))
            texts.append(rng.integers(0, kinds, int(rng.integers(1, 90))).tolist())
            rows.append(
                options(
                    multiplier=float(rng.choice([0.0, 0.8, 3.0])),
                    base=float(rng.choice([1.0, 1.1, 1.75])),
                    allowed_length=int(rng.choice([1, 2, 3, 7])),
                    last_n=int(rng.choice([0, 1, 2, 3, 20, 500])),
                    sequence_breakers=rng.integers(0, 9, int(rng.integers(0, 3))).tolist(),
                )
            )
        got = penalties(texts, rows)
        for row in range(count):
            wanted = expected(texts[row], rows[row])
            assert np.allclose(got[row], wanted, rtol=1e-4), (texts[row], rows[row])
            some += wanted.any()
    assert some > 80


@pytest.mark.parametrize("period", [1, 2, 3])
def test_a_long_repetition_has_a_finite_penalty(period: int) -> None:
    text = [n % period for n in range(400)]
    row = options(base=4, multiplier=100, allowed_length=1)
    got = penalties([text], [row])[0]
    assert np.isfinite(got).all()
    assert np.allclose(got, expected(text, row), rtol=1e-4)
    assert got.max() == pytest.approx(100 * 4 ** (LONGEST - 1), rel=1e-4)


def test_the_token_in_flight_takes_part() -> None:
    row = options(multiplier=1, base=2, allowed_length=2)
    text = [1, 2, 3, 9, 1, 2]
    assert penalties([text], [row])[0, 3] == 1
    assert not penalties([[*text[:-1], 7]], [row]).any()
    assert penalties([[5, 5, 5]], [row])[0, 5] == 1, "it may repeat the token before it"


def test_nothing_to_look_back_on() -> None:
    logits = mx.ones((1, VOCAB))
    dry = Dry()
    context = RowContext([[]], mx.array([3]))
    assert mx.array_equal(dry.process(logits, dry.init(options()), context)[0], logits)


@pytest.mark.parametrize(
    "given",
    [{}, {"allowed_length": 1, "base": 4, "multiplier": 100}, {"sequence_breakers": [1, 2]}],
)
def test_contract(given: dict[str, Any]) -> None:
    check_logits_processor(DRY, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"multiplier": -1},
        {"base": 0.5},
        {"allowed_length": 0},
        {"last_n": -1},
        {"sequence_breakers": ["\n"]},
        {"sequence_breakers": ["13"]},
        {"sequence_breakers": [-1]},
        {"sequence_breakers": list(range(MAX_BREAKERS + 1))},
        {"range": 5},
    ],
)
def test_options_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**given)
