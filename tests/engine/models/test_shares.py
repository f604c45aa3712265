"""How loaded models divide memory: never more than there is, never less than each needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budmlx.engine.models.shares import LEAST_WORK, Claim, fit, shares

GIB = 2**30


def test_equal_parts_of_what_the_weights_leave() -> None:
    claims = {"a": Claim(4 * GIB), "b": Claim(8 * GIB)}
    assert shares(claims, 20 * GIB) == {"a": 8 * GIB, "b": 12 * GIB}


def test_what_a_model_may_not_use_goes_to_the_others() -> None:
    claims = {"a": Claim(4 * GIB, most=5 * GIB), "b": Claim(8 * GIB)}
    assert shares(claims, 20 * GIB) == {"a": 5 * GIB, "b": 15 * GIB}


def test_a_small_model_needs_some_memory_to_compute_with() -> None:
    assert not fit({"a": Claim(1)}, LEAST_WORK)
    assert fit({"a": Claim(1)}, LEAST_WORK + 1)
    assert not fit({"a": Claim(20 * GIB), "b": Claim(20 * GIB)}, 45 * GIB)


CLAIMS = st.builds(
    lambda weights, extra: Claim(weights, extra and weights + extra),
    st.integers(0, 100 * GIB),
    st.none() | st.integers(LEAST_WORK, 100 * GIB),
)


@given(st.dictionaries(st.text(max_size=3), CLAIMS, max_size=6), st.integers(0, 600 * GIB))
def test_models_that_fit_get_what_they_may(claims: dict[str, Claim], total: int) -> None:
    given_out = shares(claims, total)
    assert given_out.keys() == claims.keys()
    if not fit(claims, total):
        return
    assert sum(given_out.values()) <= total
    for name, claim in claims.items():
        assert claim.weights <= given_out[name] <= (claim.most or total)
    free = [share - claims[name].weights for name, share in given_out.items()]
    capped = [claims[name].room(total) for name in given_out]
    unbounded = [f for f, room in zip(free, capped, strict=True) if f < room]
    # Those that could use more have equal parts, but for the rounding.
    assert max(unbounded, default=0) - min(unbounded, default=0) <= len(claims)
