"""Decides what the next forward passes are. All state is three collections: rows that wait,
prompts that prefill, groups that decode. Every fault sends rows back to the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from budmlx.core.batch.group import Group, best_pair
from budmlx.core.batch.placement import Placement
from budmlx.core.batch.prefill import Prompt, look, next_batch
from budmlx.core.model.model import DeviceLostError, Model
from budmlx.core.reuse.blocks import Reuse
from budmlx.core.reuse.interface import Reusing
from budmlx.core.row import Row, RowError, RowFault
from budmlx.core.sample.grammar import Compiling, Grammars
from budmlx.core.schedule.admission import Admission
from budmlx.core.schedule.pace import WHOLE, Pace
from budmlx.core.schedule.queue import FairQueue
from budmlx.core.schedule.report import Report
from budmlx.protocol import GenerateRequest, StepFrame

log = logging.getLogger(__name__)

# Turns between returning MLX's unused buffers to the system.
CLEAR_EVERY = 256
# Every so many turns the oldest prompt goes first, so that short ones cannot starve it.
OLDEST_EVERY = 4


class Scheduler:
    """Runs rows on one model. Not thread-safe: everything happens on the core's thread.

    reuse: where KV of former prompts and replies is kept; without it, none is.
    """

    def __init__(
        self, model: Model, *, max_rows: int, prefill_chunk: int, reuse: Reusing | None = None
    ):
        self._model = model
        self._max_rows = max_rows
        self._reuse = reuse or Reuse(model, 0)
        self._placement = Placement(model.memory.weights, model.memory.rectangle)
        self._admission = Admission(model, self._placement, prefill_chunk)
        self._pace = Pace(prefill_chunk)
        self._rows: dict[int, Row] = {}
        self._waiting = FairQueue()
        self._prompts: list[Prompt] = []
        self._groups: list[Group] = []
        self._turns = 0
        self._report = Report()
        self._compiling = Compiling(Grammars(model.info))

    @property
    def busy(self) -> bool:
        """Whether a turn has anything to do."""
        at_work = bool(self._rows) or bool(self._compiling) or self._report.urgent
        return at_work or self._reuse.pending

    def submit(self, request: GenerateRequest) -> None:
        """Queue a row; one that can never fit into memory fails with the next frame."""
        if (fitting := self._admission.fitting(request)) is None:
            self._report.too_long(request, self._admission.longest)
            return
        if problem := self._reuse.open_session(request.session):
            self._report.fail(request.id, "session_error", problem)
            return
        add = self._enqueue if request.grammar is None else self._compiling.add
        add(Row.of(fitting))

    def _enqueue(self, row: Row) -> None:
        self._rows[row.request.id] = row
        self._waiting.add(row)

    def cancel(self, row_id: int) -> None:
        """Drop a row wherever it is; unknown ids are ignored."""
        row = self._rows.pop(row_id, None)
        if row is None:
            self._compiling.cancel(row_id)
            return
        if row in self._waiting:
            self._waiting.remove(row)
        else:
            # Its reply may have ended at a stop string: the next prompt begins with it.
            self._keep([row])
            self._withdraw([row])

    def turn(self, begun: Callable[[StepFrame], None] | None = None) -> StepFrame:
        """Advance every running row by one token and prompts by one chunk.

        begun: told at once, in a frame of their own, which rows come in: their prompts take time.
        """
        self._turns += 1
        for row, problem in self._compiling.done(idle=not self._rows):
            self._report.bad_grammar(row, problem) if problem else self._enqueue(row)
        self._admission.reserved = self._reuse.reserved
        self._make_room()
        self._admit()
        if begun is not None and self._report.begins:
            begun(self._report.frame(waiting=len(self._waiting), running=self._running))
        if self._reuse.enabled:
            idle, alone = not self._rows, not self._groups
            self._reuse.turn(idle=idle, alone=alone, per_token=self._pace.per_token)
            look(self._prompts, self._reuse)
            self._reuse.resize(self._admission.spare(self._lengths))
        decoding = sum(len(group.rows) for group in self._groups)
        with self._pace.turn(decoding=bool(decoding)) as turn:
            # Before decoding, so that newcomers take part and no token waits for a prompt.
            turn.prefilled = self._prefill(self._pace.budget(decoding, len(self._rows) - decoding))
            self._merge_groups()
            self._decode()
        if self._turns % CLEAR_EVERY == 0:
            mx.clear_cache()
        return self._report.frame(waiting=len(self._waiting), running=self._running)

    # Admission

    def _admit(self) -> None:
        while self._waiting and self._running < self._max_rows:
            family = self._waiting.next(self._rows.values())
            rows = family[: self._max_rows - self._running]
            if not self._admission.fits(self._plan(rows)):
                rows = family[:1]
                if len(family) == 1 or not self._admission.fits(self._plan(rows)):
                    if self._tidy():
                        continue
                    return
            self._waiting.take(rows)
            for row in rows:
                self._report.start(row)
            self._prompts.append(Prompt(rows, self._model.new_cache()))

    @property
    def _running(self) -> int:
        return len(self._rows) - len(self._waiting)

    def _plan(self, newcomers: Sequence[Row]) -> list[list[int]]:
        groups = [group.occupied for group in self._groups]
        return self._admission.plan(groups, [*self._prefilling, *newcomers])

    @property
    def _lengths(self) -> list[list[int]]:
        prompts = [[len(prompt.ids)] * len(prompt.rows) for prompt in self._prompts]
        return [*(group.occupied for group in self._groups), *prompts]

    def _make_room(self) -> None:
        """Send young rows back to the queue while running ones outgrow the memory."""
        while self._running > 1 and not self._admission.fits(self._lengths):
            if not self._tidy():
                self._requeue([self._waiting.to_give_way(self._rows.values())])

    @property
    def _prefilling(self) -> list[Row]:
        return [row for prompt in self._prompts for row in prompt.rows]

    def _tidy(self) -> bool:
        return any(group.tidy() for group in self._groups)

    def _requeue(self, rows: Sequence[Row]) -> None:
        self._withdraw(rows)
        for row in rows:
            row.reset()
        self._waiting.put_back(rows)

    def _withdraw(self, rows: Sequence[Row]) -> None:
        """Take rows out of prompts and groups."""
        gone = set(rows)
        for prompt in self._prompts:
            prompt.drop(gone)
        self._prompts = [prompt for prompt in self._prompts if prompt.rows]
        for group in self._groups:
            group.keep([row for row in group.rows if row not in gone])
        self._groups = [group for group in self._groups if group.rows]

    # Decoding

    def _decode(self) -> None:
        heavy = self._placement.heavy([group.lengths for group in self._groups])
        for group, waits in zip(list(self._groups), heavy, strict=True):
            if waits and self._turns % 2:
                group.pause()
            else:
                self._guard(group.rows, self._dispatch, group)
        for group in list(self._groups):
            self._guard(group.rows, self._collect, group)

    def _dispatch(self, group: Group) -> None:
        self._fail(group.dispatch(len(self._prefilling)))

    def _fail(self, faults: Mapping[Row, RowFault]) -> None:
        for row, (code, message) in faults.items():
            self._report.fail(row.request.id, code, message)
        self._end(list(faults))

    def _end(self, rows: Sequence[Row]) -> None:
        for row in rows:
            del self._rows[row.request.id]
        self._withdraw(rows)

    def _collect(self, group: Group) -> None:
        failed, ended = list[Row](), list[Row]()
        for row, drawn in group.collect():
            if not drawn.finite:
                self._report.nothing_drawn(row)
                failed.append(row)
            elif self._report.token(row, drawn):
                ended.append(row)
        self._keep(ended)
        self._end([*failed, *ended])

    def _keep(self, rows: Sequence[Row]) -> None:
        """Store what rows computed that are about to leave."""
        for group in self._groups:
            for row in [] if group.empty else [row for row in rows if row in group.rows]:
                cache = partial(group.cache_of, row)
                self._guard((), self._reuse.keep, row.request.namespace, row.keys, row.held, cache)

    # Prefill

    def _prefill(self, budget: int) -> int:
        """Compute at most `budget` prompt tokens, whole prompts as far as they fit."""
        done = 0
        while done < budget and (ready := [p for p in self._prompts if not p.restoring]):
            look(ready, self._reuse)
            oldest = self._turns % OLDEST_EVERY == 0
            batch = next_batch(ready, budget - done, oldest=oldest, paddable=self._model.paddable)
            rows = [row for prompt in batch for row in prompt.rows]
            if len(batch) > 1:
                done += len(batch) * max(prompt.remaining for prompt in batch)
                self._guard(rows, self._prefill_together, batch)
                continue
            [prompt] = batch
            left = prompt.remaining
            most = left if left <= WHOLE else budget - done
            count = min(left, most, prompt.next_checkpoint or left)
            self._guard(rows, self._compute, prompt, count)
            done += count
            if prompt in self._prompts and prompt.remaining == 0:
                self._guard(rows, self._start, prompt)
        return done

    def _compute(self, prompt: Prompt, count: int) -> None:
        try:
            prompt.compute(self._model, self._reuse, count)
        except RowError as error:
            self._fail({row: (error.code, str(error)) for row in prompt.rows})

    def _prefill_together(self, batch: Sequence[Prompt]) -> None:
        group = Group.together(self._model, self._reuse, batch)
        self._prompts = [prompt for prompt in self._prompts if prompt not in batch]
        self._add(group)

    def _start(self, prompt: Prompt) -> None:
        self._prompts.remove(prompt)
        for group in Group.of(self._model, prompt):
            self._add(group)

    def _add(self, newcomer: Group) -> None:
        """Let prefilled rows decode: in the group where it costs least, or in their own."""
        if (group := newcomer.best_of(self._groups, self._placement)) is None:
            self._groups.append(newcomer)
        else:
            self._absorb(group, newcomer)

    def _merge_groups(self) -> None:
        if (pair := best_pair(self._groups, self._placement)) is not None:
            self._groups.remove(pair[1])
            self._absorb(*pair)

    def _absorb(self, group: Group, other: Group) -> None:
        self._guard([*group.rows, *other.rows], group.absorb, other, len(self._prefilling))

    # Faults

    def _guard(self, rows: Sequence[Row], action: Callable[..., None], *arguments: Any) -> None:
        """Call `action`; when it fails, rows that were alone fail, others run alone next."""
        try:
            action(*arguments)
        except Exception as error:
            log.exception("a step of %d rows failed", len(rows))
            if "SubmissionsIgnored" in str(error):
                raise DeviceLostError(str(error)) from error
            mx.clear_cache()
            rows = [row for row in rows if row.request.id in self._rows]
            self._requeue(rows)
            # What the step left half computed must not come back from there.
            self._reuse.clear()
            for row in rows:
                if row.solo:
                    self._waiting.remove(row)
                    del self._rows[row.request.id]
                    self._report.fail(row.request.id, "request_failed")
                else:
                    row.suspect()
