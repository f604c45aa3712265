"""Scheduler: decides what runs next, as plans for the executor; it touches no array.

    for plan in scheduler.plans():
        scheduler.take(executor.run(plan))

is one step of it. Every fault sends rows back to the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import msgspec

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.memory import memory_use
from budmlx.core.row import Row
from budmlx.core.sample.grammar import COMPILE_SECONDS, CompilingRows, Grammars
from budmlx.core.schedule.admission import Admission, Line, Pace, PlanDraft, Room, Waiting
from budmlx.core.schedule.claims import Claims, begin_turn
from budmlx.core.schedule.disk_read import DiskReadBudget
from budmlx.core.schedule.prefill import LEAST_REST, PrefillBudget
from budmlx.core.schedule.speculation import Setting, Speculation
from budmlx.core.schedule.step_report import StepReport
from budmlx.core.schedule.texts import TextQueue
from budmlx.core.schedule.trials import Trials, may_start
from budmlx.core.schedule.view import View
from budmlx.protocol import CoreRequest, EmbedRequest, MemoryBudget, StepFrame

# The oldest prompt goes first in one of this many steps, so that short ones cannot starve it.
OLDEST_EVERY = 4

Merges = list[tuple[int, int]]


class Scheduler:
    """Runs rows on one executor. Not thread-safe: everything happens on the core's thread.

    A row waits, or is in a prompt or group of the executor. Between steps the executor knows of
    every row that came or left.

    stream_slowdown: see `PrefillBudget`. disk: what a step may read from disk.
    compile_seconds: a grammar that takes longer is refused. speculation: see `Speculation`.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_rows: int,
        prefill_chunk: int,
        stream_slowdown: float = 3.0,
        disk: DiskReadBudget | None = None,
        compile_seconds: float = COMPILE_SECONDS,
        grammars: Grammars | None = None,
        speculation: Setting = 0,
    ):
        self._executor = executor
        self._max_rows = max_rows
        self._view = View(executor)
        numbers = executor.numbers
        self._admission = Admission(
            executor.info, executor.memory, prefill_chunk, numbers.step_overhead
        )
        self._prefill_budget = PrefillBudget(
            prefill_chunk, least=numbers.least_chunk, slowdown=stream_slowdown
        )
        self._disk = disk or DiskReadBudget()
        self._rows: dict[int, Row] = {}
        self._waiting = Waiting()
        self._claims = {line: Claims(line.queue) for line in self._waiting.lines}
        self._compiling = CompilingRows(grammars or Grammars(executor.info), compile_seconds)
        self._speculation = Speculation.of(speculation, executor.info)
        self._report = StepReport()
        self._texts = TextQueue(self._report, executor.texts.whole, numbers.least_chunk)
        self._pace = Pace(self._view, self._texts, self._prefill_budget)
        self._space = Room(self._admission, self._view, self._texts)
        self._trials = Trials()
        self._draft = PlanDraft()
        self._steps = 0
        self._room: int | None = None
        self._memory = memory_use()

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        at_work = bool(self._rows or self._compiling.rows or self._texts.requests)
        return at_work or self._report.urgent or self._executor.reuse.pending

    def set_memory_limit(self, limit: int, prefix_cache: float) -> None:
        """See `Executor.set_memory_limit`; young rows wait again if it is less than they need."""
        self._executor.set_memory_limit(limit, prefix_cache)
        self._room = None  # so that the room for stored KV is told anew

    @property
    def budget(self) -> MemoryBudget:
        """The bounds of memory."""
        self._admission.update(self._executor.memory)
        return msgspec.structs.replace(self._executor.budget, longest_row=self._admission.longest)

    def submit(self, request: CoreRequest) -> None:
        """Queue a row, or texts; what can never fit into memory fails with the next frame."""
        longest = self._admission.longest
        if isinstance(request, EmbedRequest):
            if self._texts.add(request, longest):
                self._executor.texts.add(request)
        elif (fitting := self._admission.fitting(request)) is None:
            self._report.too_long(request.id, len(request.prompt_ids), longest)
        else:
            add = self._enqueue if request.grammar is None else self._compiling.add
            add(Row.of(fitting))

    def _enqueue(self, row: Row) -> None:
        if (failed := self._executor.add(row)) is not None:
            self._report.failed(failed)
            return
        self._rows[row.id] = row
        self._waiting.of(row).add(row)

    def cancel(self, row_id: int) -> None:
        """Drop a row, or texts, wherever it is; unknown ids are ignored."""
        if (row := self._rows.get(row_id)) is None:
            self._compiling.cancel(row_id)
            if gone := self._texts.remove(row_id):
                self._draft.leave += gone
                self._run(self._settle())
            return
        if row in self._waiting:
            self._waiting.of(row).remove(row)
        else:
            # Its reply may have ended at a stop string: the next prompt begins with it.
            self._draft.keep.append(row_id)
        self._end([row])
        self._run(self._settle())

    def step(self, begun: Callable[[StepFrame], None] | None = None) -> StepFrame:
        """Advance every running row by one token and prompts by one chunk.

        begun: called at once, with a frame of their own, for rows that begin: their prompts
        take time.
        """
        self._arrange()
        if begun is not None and self._report.begins:
            begun(self._frame())
        self._run(self.plans())
        return self._frame()

    def _run(self, plans: Iterator[Plan]) -> None:
        for plan in plans:
            self.take(self._executor.run(plan))

    def _frame(self) -> StepFrame:
        waiting, running = len(self._waiting), self._running + len(self._texts.requests)
        return self._report.frame(waiting=waiting, running=running, memory=self._memory)

    # Plans and results

    def plans(self) -> Iterator[Plan]:
        """The plans of one step; each is made after the result of the one before was taken.

        First what came and what must leave, then passes over prompts, so that newcomers take
        part and no token waits for a prompt, at last all groups.
        """
        idle = not self._rows
        yield from self._settle(self._readable(), save=idle and self._executor.reuse.pending)
        budget = self._pace.begin(self._waiting)
        texts = bool(self._texts.requests) and (self._texts.interactive or not self._view.resting)
        share = budget // 2 if texts and self._view.prompts else budget
        prefilled, merges = yield from self._prefill(share)
        if texts:
            prefilled += yield from self._texts.plans(budget - prefilled, self._space.takes_text)
        if self._view.groups:
            yield self._decode(merges)
        self._pace.end(prefilled)
        yield from self._settle()

    def take(self, result: Result) -> None:
        """Process the result of the last plan."""
        self._memory = result.memory
        self._pace.add(result)
        if self._waiting:
            for claims in self._claims.values():
                claims.computed(result.seconds)
        if self._executor.reuse.reads_disk:
            self._disk.learn(result.disk)
        self._view.update(result.prompts, result.groups, self._rows)
        self._report.add(result)
        if self._speculation is not None:
            self._report.parked(self._speculation.learn(result))
        if self._texts.requests:
            self._draft.leave += self._texts.take(result)
        ended = [token.id for token in result.tokens if token.reason is not None]
        if ended or result.failed:
            self._draft.keep += ended
            failed = [each.id for each in result.failed]
            self._end([self._rows[row_id] for row_id in [*ended, *failed]])
        if result.condemned:
            self._start_over()
        for ids in result.faults:
            self._suspect([self._rows[row_id] for row_id in ids if row_id in self._rows])

    def _settle(self, restore: int | None = None, *, save: bool = False) -> Iterator[Plan]:
        """Plans for decisions that must be carried out before anything else is decided."""
        while self._draft.pending or restore is not None or save:
            draft, self._draft = self._draft, PlanDraft()
            yield draft.plan(restore, save=save)
            restore, save = None, False

    def _prefill(self, budget: int) -> Generator[Plan, None, tuple[int, Merges]]:
        """Passes of at most `budget` prompt tokens, whole prompts as far as they fit.

        Returns the number of tokens, and the groups that can merge after the last pass.
        """
        done, merges = 0, Merges()
        oldest = self._steps % OLDEST_EVERY == 0
        while done < budget and (chosen := self._view.next_pass(budget - done, oldest=oldest)):
            if done and not chosen.ends and LEAST_REST * (budget - done) < budget:
                break
            done += chosen.tokens
            rows = set(chosen.rows)
            yield Plan(merge=merges, room=self._draft.pop_room(), prefill=chosen.prefill)
            yield from self._settle()
            merges = self._view.join(rows)
        return done, merges

    def _decode(self, merges: Merges) -> Plan:
        merges = [*merges, *self._view.merge_best()]
        going, pausing = self._view.turns(odd=self._steps % 2 == 1)
        return Plan(
            merge=merges,
            room=self._draft.pop_room(),
            decode=[group.id for group in going],
            draft=self._speculation.drafted(going) if self._speculation else [],
            pause=[group.id for group in pausing],
        )

    def _readable(self) -> int | None:
        """Tokens that may be read from disk, if a prompt is new or waits for more."""
        new = self._draft.admit or any(prompt.restoring for prompt in self._view.prompts)
        if not (new and self._executor.reuse.reads_disk):
            return None
        return self._disk.allowance(
            alone=not self._view.groups, per_token=self._prefill_budget.per_token
        )

    # Rows that come and go

    def _arrange(self) -> None:
        """Decide which rows come in, and which ones wait again because memory is short."""
        self._steps += 1
        if self._compiling.rows:
            for row, problem in self._compiling.done(idle=not self._rows):
                self._report.bad_grammar(row, problem) if problem else self._enqueue(row)
        self._admission.reserved = self._executor.reuse.reserved
        self._admission.update(self._executor.memory)
        self._make_room()
        self._admit(self._waiting.interactive)
        if not self._waiting.interactive.queue:
            self._admit(self._waiting.background)
        if self._executor.reuse.enabled and self._room != (room := self._space.spare):
            self._room = self._draft.room = room

    @property
    def _running(self) -> int:
        return len(self._rows) - len(self._waiting)

    @property
    def _at_work(self) -> list[Row]:
        waiting = set(self._waiting)
        return [row for row in self._rows.values() if row not in waiting]

    def _admit(self, line: Line) -> None:
        """Let rows of one class in, while there is room or others make way."""
        if line.queue and self._running:
            self._grant_claim(line, self._claims[line])
        else:
            self._claims[line].waited.clear()
        while line.queue:
            family = line.queue.next(line.of_class(self._rows.values()))
            rows = family[: self._max_rows - self._running]
            if not rows or not self._space.takes(rows):
                rows = family[:1]
                if len(family) == 1 or not self._fits(rows[0]):
                    if self._makes_room(rows[0]):
                        continue
                    return
            if rows[0].quarantined and not may_start(rows[0], self._at_work):
                return
            self._start(rows)

    def _fits(self, row: Row) -> bool:
        return self._running < self._max_rows and self._space.takes([row])

    def _makes_room(self, row: Row) -> bool:
        """Make some room for a row that does not fit, at nobody's expense of its own class."""
        if self._running < self._max_rows and self._compact():
            return True
        if (other := self._waiting.making_way(row, self._at_work)) is not None:
            self._displace(other)
        return other is not None

    def _start(self, rows: Sequence[Row]) -> None:
        self._waiting.of(rows[0]).take(rows)
        for row in rows:
            self._report.start(row)
            if row.sent_back:
                begin_turn(row)
        self._view.admit(rows)
        self._draft.admit.append([row.id for row in rows])

    def _grant_claim(self, line: Line, claims: Claims) -> None:
        """Let rows make way for an owner that has waited for long without one; see `Claims`."""
        claims.wait(line.of_class(self._at_work))
        row = claims.claimant()
        if row is None:
            return
        while not self._fits(row):
            if not self._makes_room(row):
                displaced = claims.to_displace(line.of_class(self._at_work))
                if displaced is None:
                    return
                self._displace(displaced)
        claims.grant(row)
        self._start([row])

    def _displace(self, row: Row) -> None:
        """Send a row back to its owner's line, with its KV kept, if it does not end now."""
        if self._read(row):
            self._send_back([row])
            self._draft.keep.append(row.id)
            self._waiting.of(row).put_behind(row)

    def _read(self, row: Row) -> bool:
        """Read the token in flight of a row that is to leave; returns whether it goes on.

        Neither every model's KV nor what plugins keep can be cut to the tokens that were read.
        """
        self._run(self._settle())
        group = next((group for group in self._view.groups if row in group.rows), None)
        if group is not None:
            self._run(iter([Plan(pause=[group.id])]))
        return row in self._at_work

    def _make_room(self) -> None:
        """Preempt young rows while running ones outgrow the memory."""
        while self._running > 1 and self._space.short:
            if self._compact():
                continue
            row = self._waiting.to_preempt(self._at_work)
            if self._read(row):
                self._requeue([row])

    def _compact(self) -> bool:
        """Let one group give up memory that no row needs; returns whether there was any."""
        group = next((group for group in self._view.groups if group.compact()), None)
        if group is not None:
            self._draft.compact.append(group)
        return group is not None

    def _requeue(self, rows: Sequence[Row]) -> None:
        self._send_back(rows)
        self._waiting.put_back(rows)

    def _send_back(self, rows: Sequence[Row]) -> None:
        self._view.drop(rows)
        self._draft.requeue += [row.id for row in rows]
        for row in rows:
            row.sent_back += 1

    def _end(self, rows: Sequence[Row]) -> None:
        self._view.drop(rows)
        for row in rows:
            del self._rows[row.id]
            self._draft.leave.append(row.id)

    def _suspect(self, rows: Sequence[Row]) -> None:
        """Send rows of a fault back: those that were alone fail, others run alone next."""
        # What was left half computed must not come back; of texts nothing is stored.
        self._draft.forget |= bool(rows)
        self._requeue(rows)
        for row in rows:
            if row.solo:
                self._fail(row)
            else:
                row.suspect()

    def _start_over(self) -> None:
        """Send all rows back after a fault of the device, of which nothing says whose it was."""
        rows = self._at_work
        self._draft.forget = True
        self._requeue(rows)
        if (guilty := self._trials.condemn(rows)) is not None:
            self._fail(guilty)

    def _fail(self, row: Row) -> None:
        """End a row that was sent back."""
        self._waiting.of(row).remove(row)
        self._end([row])
        self._report.raised(row.id)
