"""Rows of samplers and logits processors, run together and alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from pydantic import ValidationError

from budmlx.plugins.options import Vocabulary
from budmlx.plugins.row_state import difference, initial_state, layout
from budmlx.plugins.specs import LogitsProcessorSpec, RowContext, SamplerSpec
from budmlx.testing.parsers import require

ROWS, VOCAB, STEPS = 3, 48, 6
VOCABULARY = Vocabulary(VOCAB, lambda text: [byte % VOCAB for byte in text.encode()])
"""The vocabulary of the checks; a token is a byte."""


def option_sets(
    spec: SamplerSpec | LogitsProcessorSpec,
    first: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Validated options for each row; see `check_sampler`."""
    given = [first, *others]
    if not others:
        try:
            _validated(spec, {})
        except ValidationError:
            pass  # there is an option without a default
        else:
            given.append({})
    sets = [_validated(spec, each) for each in given]
    return [sets[row % len(sets)] for row in range(max(ROWS, len(sets)))]


def check_rows(plugin: Any, step: Callable[..., Any], options: Sequence[dict[str, Any]]) -> None:
    """Run rows together and alone, and compare results and states of every step."""
    rows = len(options)
    states = _initial_states(plugin, options)
    together = tree_map(lambda *rows: mx.concatenate(rows), *states)
    usual = layout(states[0], 1)
    history: list[list[int]] = [[row, row + 1] for row in range(rows)]
    for number in range(STEPS):
        logits = 3 * mx.random.normal((rows, VOCAB), key=mx.random.key(number))
        before = mx.array(logits)
        last = mx.array([row + number for row in range(rows)])
        result, after = step(logits, together, RowContext(history, last), range(rows))
        again, _ = step(logits, together, RowContext(history, last), range(rows))
        require(bool(mx.array_equal(result, again)), "the same call has another result")
        require(bool(mx.array_equal(logits, before)), "it changes the logits it was given")
        _check_layout(after, rows, usual)
        for row in range(rows):
            context = RowContext([history[row]], last[row : row + 1])
            alone, states[row] = step(logits[row : row + 1], states[row], context, [row])
            same = mx.allclose(alone[0], result[row], atol=1e-5)
            require(bool(same), "a row depends on the rows beside it")
            _check_layout(states[row], 1, usual)
            _check_same(states[row], tree_map(lambda a, r=row: a[r : r + 1], after))
        together = after
        history = [[*ids, int(last[row])] for row, ids in enumerate(history)]


def _validated(
    spec: SamplerSpec | LogitsProcessorSpec, options: Mapping[str, Any]
) -> dict[str, Any]:
    context = {"vocabulary": VOCABULARY}
    return spec.options.model_validate(dict(options), context=context).model_dump(mode="json")


def _initial_states(plugin: Any, options: Sequence[dict[str, Any]]) -> list[Any]:
    states = [initial_state(plugin.init, each, VOCAB) for each in options]
    try:
        usual = layout(states[0], 1)
        wrong = [difference(layout(state, 1), usual) for state in states]
    except ValueError as error:
        raise AssertionError(f"it {error}") from error
    for each, problem in zip(options, wrong, strict=True):
        require(not problem, f"the states of rows have different layouts: {problem}, for {each}")
    return states


def _check_layout(state: Any, rows: int, usual: Mapping[str, str]) -> None:
    try:
        problem = difference(layout(state, rows), usual)
    except ValueError as error:
        raise AssertionError("a state has no entry for each row") from error
    require(not problem, f"a state changes its layout: {problem}")


def _check_same(alone: Any, taken: Any) -> None:
    pairs = zip(tree_flatten(alone), tree_flatten(taken), strict=True)
    for (_, one), (_, other) in pairs:
        require(bool(mx.allclose(one, other, atol=1e-4)), "a state depends on other rows")
