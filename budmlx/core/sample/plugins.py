"""Plugin sampling: samplers and logits processors of plugins, called once per step for all rows
that chose them. Each row has a state, which is split off and concatenated as rows come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from budmlx.core.plugin_calls import PluginFault, calling, fault, resolve
from budmlx.core.row import Row, RowFault
from budmlx.core.sample.numeric import row_max
from budmlx.plugins.row_state import Layout, difference, initial_state, layout
from budmlx.plugins.specs import RowContext
from budmlx.protocol import PluginCall

_instances: dict[str, Any] = {}


NOTHING_DRAWN = (
    "No token can be drawn: the logits are not finite, or every token is banned. Check logit_bias."
)


class Spoilt(NamedTuple):
    """What a processor did to the logits of a step.

    places: of its rows in the group. found: bool [rows], where it left nothing to draw, or
    numbers that are none.
    """

    plugin: str
    what: str
    places: Sequence[int]
    found: mx.array


class PluginSampling:
    """One plugin object and the rows of a group that chose it at one place.

    slot: the place, which also names the rows' states: 0 is the sampler, 1 the first
    processor of a row, and so on. vocab: size of the vocabulary.
    spoilt: by a processor in the last step, if it ran.
    """

    def __init__(
        self,
        slot: int,
        call: PluginCall,
        indices: Sequence[int],
        rows: Sequence[Row],
        vocab: int,
    ):
        self.rows = [rows[i] for i in indices]
        self.places = list(indices)
        self.indices = mx.array(self.places)
        self._slot = slot
        self._call = call
        self._vocab = vocab
        self._plugin: Any = None
        self._state: Any = None
        self._layout: Layout = {}
        self.spoilt: Spoilt | None = None

    def prepare(self, faults: dict[Row, RowFault]) -> None:
        """Make the plugin's object and concatenate the rows' states.

        faults: gets the rows for which the plugin makes no state, or one of another layout than
        those of the rows before, which go on.

        Raises:
            PluginFault: there is no object.
        """
        self._plugin = self._guarded(self._instance)
        usual: Any = None
        # Rows that run already say what the layout is.
        for row in sorted(self.rows, key=lambda row: self._slot not in row.states):
            try:
                state = self._begun(row)
                self._layout = self._layout_of(state, 1) if usual is None else self._layout
                self._check_layout(state, 1)
            except PluginFault as error:
                row.states.pop(self._slot, None)
                faults[row] = error.code, str(error)
            else:
                usual = state if usual is None else usual
                row.states[self._slot] = state
        if usual is not None:
            # A row that failed stands in the batch for one more step.
            states = [row.states.get(self._slot, usual) for row in self.rows]
            self._state = self._guarded(_concatenate, states)

    def process(self, logits: mx.array, feed: mx.array) -> mx.array:
        """New logits [rows, vocab] for these rows.

        logits: [rows, vocab] of these rows. feed: the ids [rows of the group] fed to this step.

        Raises:
            PluginFault: the plugin raised, or returned another shape or an unusable state.
        """
        changed, state = self._pair("process", logits, self._state, self._context(feed))
        self._check(changed, logits.shape)
        self._check_layout(state, len(self.rows))
        self._state = state
        spoilt = mx.isfinite(row_max(logits)) & ~mx.isfinite(row_max(changed))
        self.spoilt = Spoilt(self._call.plugin, self._what, self.places, spoilt[:, 0])
        return changed

    def sample(self, logits: mx.array, feed: mx.array, keys: mx.array) -> mx.array:
        """Token ids, integers [rows], for these rows.

        logits: [rows, vocab] of these rows. feed: the ids [rows of the group] fed to this step.
        keys: random keys, uint32 [rows, 2].

        Raises:
            PluginFault: the plugin raised, or returned another shape or an unusable state.
        """
        tokens, state = self._pair("sample", logits, self._state, self._context(feed), keys)
        self._check(tokens, logits.shape[:1])
        if not mx.issubdtype(tokens.dtype, mx.integer):
            raise self._fault("returned token ids that are not integers")
        self._check_layout(state, len(self.rows))
        self._state = state
        return tokens

    def release(self) -> None:
        """Split the state into the states of the rows."""
        if self._state is None:
            return
        for i, row in enumerate(self.rows):
            row.states[self._slot] = tree_map(lambda x, i=i: x[i : i + 1], self._state)

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays of the state, to be evaluated with the step."""
        return [] if self._state is None else [x for _, x in tree_flatten(self._state)]

    def _begun(self, row: Row) -> Any:
        """The state of a row, which may be a new one."""
        if self._slot in row.states:
            return row.states[self._slot]
        init = self._guarded(getattr, self._plugin, "init")
        return self._guarded(initial_state, init, self._options(row), self._vocab)

    def _options(self, row: Row) -> dict[str, Any]:
        request = row.request
        call = request.processors[self._slot - 1] if self._slot else request.sampler
        return dict(call.options) if call is not None else {}

    def _instance(self) -> Any:
        if self._call.core not in _instances:
            _instances[self._call.core] = resolve(self._call.core)()
        return _instances[self._call.core]

    def _context(self, feed: mx.array) -> RowContext:
        # Copies: a plugin that changes what it gets must not change the rows.
        history = [row.history() for row in self.rows]
        return RowContext(history=history, last=mx.array(feed[self.indices]))

    def _method(self, name: str, *arguments: Any) -> Any:
        return getattr(self._plugin, name)(*arguments)

    def _pair(self, name: str, *arguments: Any) -> tuple[Any, Any]:
        result = self._guarded(self._method, name, *arguments)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fault("did not return a result and a state")
        return result

    def _check(self, value: Any, shape: Sequence[int]) -> None:
        if not isinstance(value, mx.array) or tuple(value.shape) != tuple(shape):
            raise self._fault(f"did not return an array of shape {list(shape)}")

    def _check_layout(self, state: Any, rows: int) -> None:
        if wrong := difference(self._layout_of(state, rows), self._layout):
            raise self._fault(f"keeps states of different layouts: {wrong}")

    def _layout_of(self, state: Any, rows: int) -> Layout:
        try:
            return layout(state, rows)
        except ValueError as error:
            raise self._fault(str(error)) from error

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with calling(self._call.plugin, self._what, self.rows):
            return function(*arguments)

    @property
    def _what(self) -> str:
        return f"{'logits processor' if self._slot else 'sampler'} {self._call.name}"

    def _fault(self, problem: str) -> PluginFault:
        return fault(self._call.plugin, self._what, problem)


@contextmanager
def blaming(each: PluginSampling, faults: dict[Row, RowFault]) -> Iterator[None]:
    """Note what a plugin does wrong against the rows that chose it."""
    try:
        yield
    except PluginFault as error:
        faults.update(dict.fromkeys(each.rows, (error.code, str(error))))


def nothing_drawn(row: Row, spoilt: Spoilt | None) -> RowFault:
    """Why a row ends for which there was no token to draw. spoilt: by the processor that did it."""
    if spoilt is not None:
        problem = "left no token that can be drawn: no number, or -inf for all of them"
        return "plugin_error", str(fault(spoilt.plugin, spoilt.what, problem))
    if (sampler := row.request.sampler) is not None:
        problem = "drew no token of the vocabulary"
        return "plugin_error", str(fault(sampler.plugin, f"sampler {sampler.name}", problem))
    return "non_finite_logits", NOTHING_DRAWN


def plugin_sampling(
    rows: Sequence[Row], vocab: int
) -> tuple[list[PluginSampling], list[PluginSampling]]:
    """The processors, in the order in which they run, and the samplers that rows chose.

    vocab: size of the vocabulary.
    """
    processors: list[PluginSampling] = []
    for place in range(max((len(row.request.processors) for row in rows), default=0)):
        processors += _grouped(
            place + 1,
            [
                row.request.processors[place] if place < len(row.request.processors) else None
                for row in rows
            ],
            rows,
            vocab,
        )
    return processors, _grouped(0, [row.request.sampler for row in rows], rows, vocab)


def _grouped(
    slot: int, calls: Sequence[PluginCall | None], rows: Sequence[Row], vocab: int
) -> list[PluginSampling]:
    indices: dict[str, list[int]] = {}
    chosen: dict[str, PluginCall] = {}
    for i, call in enumerate(calls):
        if call is not None:
            indices.setdefault(call.core, []).append(i)
            chosen.setdefault(call.core, call)
    return [PluginSampling(slot, chosen[core], indices[core], rows, vocab) for core in indices]


def _concatenate(states: Sequence[Any]) -> Any:
    return tree_map(lambda *leaves: mx.concatenate(leaves), states[0], *states[1:])
