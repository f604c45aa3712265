"""Draft rows: the rows of a group as the draft model has them."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.batch.slots import Slots
from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.model.draft_model import DraftModel
from budmlx.core.row import Row
from budmlx.core.sample.draw import Draws, random_keys

log = logging.getLogger(__name__)

# A row that is behind by more tokens takes them in alone: in the batch each of them is a place
# of all rows.
MOST_BEHIND = 4


@dataclass(slots=True)
class _Place:
    """Where a row stands. held: its first tokens that the cache holds. guessed: what it holds
    after them, which may turn out to be wrong."""

    held: int = 0
    guessed: list[int] = field(default_factory=list)


class DraftRows:
    """The rows of a group in caches of the draft model, which follow them when they are needed.

    Drafts are drawn with the row's own keys, parameters and filters: every token of the vocabulary
    has the same random number in both models, so that those which agree draw the same.

    passes: of the last call, each over one further token of all rows. seconds: what they took.
    behind: tokens that rows had to take in before.
    """

    def __init__(self, model: DraftModel, copy_steps: float):
        self._model = model
        self._copy_steps = copy_steps
        self._rows: list[Row] = []
        self._slots: Slots | None = None
        self._apart: dict[Row, list[Any]] = {}
        self._places: dict[Row, _Place] = {}
        self._draws: _RowDraws | None = None
        self._failed = False
        self.passes = 0
        self.behind = 0
        self.seconds = 0.0

    def draft(
        self, rows: Sequence[Row], unread: Mapping[Row, Sequence[int]], most: int
    ) -> Mapping[Row, list[int]]:
        """The next `most` tokens of rows, as far as they have been taken in.

        If the draft model fails, these rows do without it from then on.

        unread: tokens that were drawn and are not in the rows' ids yet.
        """
        begin, self.passes, self.behind, self.seconds = time.perf_counter(), 0, 0, 0.0
        if self._failed or (len(rows) > 1 and not self._model.together):
            return {}
        fitting = [row for row in rows if _length(row, unread) + most <= self._model.context]
        if len(fitting) < len(rows) or not self._model.together:
            rows = fitting
            self.keep(rows)
        try:
            self._take_back(unread)
            self._take_in(rows, unread)
            drafts = self._drafts(unread, most) if self._slots is not None else {}
        except Exception as error:
            if is_device_fault(error):
                raise
            log.exception("the draft model failed; %d rows go on without it", len(rows))
            self._failed, drafts = True, {}
            self.keep(())
        self.seconds = time.perf_counter() - begin
        return drafts

    def keep(self, rows: Collection[Row]) -> None:
        """Forget all rows but these."""
        self._apart = {row: cache for row, cache in self._apart.items() if row in rows}
        self._leave([index for index, row in enumerate(self._rows) if row not in rows])
        self._places = {row: place for row, place in self._places.items() if row in rows}

    def absorb(self, other: DraftRows) -> None:
        """Take over the rows of another group."""
        self._apart |= other._apart
        self._places |= other._places
        if not self._model.together:
            self.keep(())
        elif other._slots is not None:
            self._join(other._rows, other._slots)

    def _take_back(self, unread: Mapping[Row, Sequence[int]]) -> None:
        """Forget what was guessed wrong."""
        places = [self._places[row] for row in self._rows]
        held = [place.held + len(place.guessed) for place in places]
        wrong = []
        for row, place in zip(self._rows, places, strict=True):
            right = _agreeing(place.guessed, _tokens(row, unread, place.held))
            wrong.append(len(place.guessed) - right)
            place.held += right
            place.guessed = []
        if self._slots is not None and any(wrong):
            self._slots.rewind(wrong, held)

    def _take_in(self, rows: Sequence[Row], unread: Mapping[Row, Sequence[int]]) -> None:
        """Let rows that are new or behind take in what they lack, some of it in each step.

        Long prompts need many steps, so that no step waits for one.
        """
        behind = [
            index
            for index, row in enumerate(self._rows)
            if _length(row, unread) - self._places[row].held > MOST_BEHIND
        ]
        for index in behind:
            row = self._rows[index]
            assert self._slots is not None
            self._apart[row] = self._slots.row(index, self._places[row].held)
        self._leave(behind)
        for row in rows:
            if row not in self._places:
                self._places[row] = _Place()
                self._apart[row] = self._model.new_cache()
        left, ready = self._model.chunk, list[Row]()
        for row, cache in self._apart.items():
            place = self._places[row]
            count = min(left, _length(row, unread) - 1 - place.held)
            if count > 0:
                ids = _tokens(row, unread, place.held)[:count]
                self._model(mx.array([ids]), cache)
                mx.eval([entry.state for entry in cache])
                place.held += count
                left -= count
            if place.held and place.held == _length(row, unread) - 1:
                ready.append(row)
        self.behind = self._model.chunk - left
        if ready:
            caches = [self._apart.pop(row) for row in ready]
            self._join(ready, Slots(_merged(caches), len(ready), self._copy_steps, ragged=True))

    def _join(self, rows: Sequence[Row], slots: Slots) -> None:
        self._draws = None
        if self._slots is None:
            self._rows, self._slots = list(rows), slots
            return
        both = [*self._rows, *rows]
        self._rows = [both[index] for index in self._slots.add(slots, 0)]

    def _leave(self, indices: Sequence[int]) -> None:
        """Take rows out of the slots."""
        if not indices:
            return
        self._draws = None
        stay = [index for index in range(len(self._rows)) if index not in set(indices)]
        self._rows = [self._rows[index] for index in stay]
        if not stay:
            self._slots = None
        elif self._slots is not None:
            self._slots.keep(stay, [self._held(row) for row in self._rows])

    def _held(self, row: Row) -> int:
        place = self._places[row]
        return place.held + len(place.guessed)

    def _drafts(self, unread: Mapping[Row, Sequence[int]], most: int) -> Mapping[Row, list[int]]:
        """The next tokens of the rows that are in slots."""
        lacking = [_tokens(row, unread, self._places[row].held) for row in self._rows]
        counts = [len(ids) for ids in lacking]
        fed = np.zeros((len(counts), max(counts)), dtype=np.uint32)
        for places, ids in zip(fed, lacking, strict=True):
            places[: len(ids)] = ids
        assert self._slots is not None
        self._slots.before_step(max(self._places[row].held for row in self._rows), 0)
        if self._draws is None:
            self._draws = _RowDraws(self._rows)
        logits = self._forward(mx.array(fed), counts)
        ends = mx.array(counts)[:, None, None] - 1
        tokens = [self._draws.draw(mx.take_along_axis(logits, ends, axis=1)[:, 0], 0)]
        for row, count in zip(self._rows, counts, strict=True):
            self._places[row].held += count
        for place in range(1, most):
            logits = self._forward(tokens[-1][:, None], [1] * len(counts), place - 1)
            tokens.append(self._draws.draw(logits[:, 0], place))
        self.passes = most
        drafts: list[list[int]] = mx.stack(tokens, axis=1).tolist()
        for row, draft in zip(self._rows, drafts, strict=True):
            self._places[row].guessed = draft[:-1]
        return dict(zip(self._rows, drafts, strict=True))

    def _forward(self, fed: mx.array, counts: Sequence[int], guessed: int = 0) -> mx.array:
        """Logits [rows, k, vocab] for token ids [rows, k], of which rows keep the first `counts`.

        guessed: tokens that all rows hold beyond those that are known.
        """
        slots = self._slots
        assert slots is not None
        slots.open(fed.shape[1], [self._places[row].held + guessed for row in self._rows])
        logits = slots.gather(self._model(slots.spread(fed), slots.caches))
        slots.take(counts, fed.shape[1])
        return logits


class _RowDraws:
    """Draws what rows would draw, but for what depends on more than the model."""

    def __init__(self, rows: Sequence[Row]):
        params = [row.request.sampling for row in rows]
        drawn = [index for index, each in enumerate(params) if each.temperature > 0]
        self._rows = rows
        self._greedy = len(drawn) < len(rows)
        self._draws = Draws(params, drawn) if drawn else None
        self._seeds = np.array([row.request.seed % 2**64 for row in rows], dtype=np.uint64)
        self._choices = np.array([row.request.choice for row in rows], dtype=np.uint64)

    def draw(self, logits: mx.array, place: int) -> mx.array:
        """Token ids, uint32 [rows], for logits [rows, vocab]. place: counted from the next one."""
        tokens = mx.argmax(logits, axis=-1) if self._greedy else None
        if self._draws is not None:
            positions = np.array([row.position + place for row in self._rows], dtype=np.uint64)
            keys = random_keys(self._seeds, self._choices, positions)
            tokens = self._draws.draw(logits, keys, tokens)
        assert tokens is not None
        mx.async_eval(tokens)
        return tokens


def _length(row: Row, unread: Mapping[Row, Sequence[int]]) -> int:
    return len(row.ids) + len(unread.get(row, ()))


def _tokens(row: Row, unread: Mapping[Row, Sequence[int]], begin: int) -> list[int]:
    """A row's tokens from place `begin` on, those included that have not been read."""
    more = unread.get(row, ())
    return [*row.ids[begin:], *more[max(0, begin - len(row.ids)) :]]


def _agreeing(guessed: Sequence[int], said: Sequence[int]) -> int:
    """How many tokens agree before the first that does not."""
    pairs = enumerate(zip(guessed, said, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(guessed), len(said)))


def _merged(caches: Sequence[list[Any]]) -> list[Any]:
    if len(caches) == 1:
        return caches[0]
    return [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
