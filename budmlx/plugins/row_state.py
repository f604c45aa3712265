"""Row states: what samplers and logits processors keep for rows. Nothing here loads MLX.

The states of all rows are concatenated, so they have one tree, and each of its arrays has one
shape (besides the first axis, the rows) and one dtype, whatever a row's options are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from budmlx.plugins.specs import State

Layout = Mapping[str, str]
"""Shape without the first axis, and dtype, of each array, by its place in the tree."""


def initial_state(init: Callable[..., State], options: Mapping[str, Any], vocab_size: int) -> State:
    """The state that a sampler or processor begins with. init: gets `vocab_size` if it names it."""
    named = inspect.signature(init).parameters
    return init(options, vocab_size=vocab_size) if "vocab_size" in named else init(options)


def layout(state: State, rows: int) -> Layout:
    """The layout of a state. Raises ValueError if it is not a tree of arrays of so many rows."""
    return dict(_layout(state, rows, ""))


def difference(layout: Layout, usual: Layout) -> str:
    """The first difference of two layouts in words; empty if there is none."""
    for place in [*usual, *layout]:
        one, other = layout.get(place, "nothing"), usual.get(place, "nothing")
        if one != other:
            return f"{one} instead of {other}{f' in {place}' if place else ''}"
    return ""


def _layout(state: Any, rows: int, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(state, dict):
        for key in sorted(state, key=str):
            yield from _layout(state[key], rows, f"{place}.{key}" if place else str(key))
    elif isinstance(state, list | tuple):
        yield place, f"a {type(state).__name__} of {len(state)}"
        for number, each in enumerate(state):
            yield from _layout(each, rows, f"{place}[{number}]")
    else:
        shape = getattr(state, "shape", None)
        if not shape or shape[0] != rows or not hasattr(state, "dtype"):
            raise ValueError(f"keeps a state without a first axis of {rows} rows")
        dtype = str(state.dtype).rpartition(".")[2]
        yield place, f"{dtype}{['rows', *shape[1:]]}".replace("'", "")
