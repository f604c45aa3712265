"""Admission: the rows that wait, by class; whether rows fit into memory together, before they start
and while they grow; what a step may do beside them; and the draft of what was decided about rows.

Rows of the background run on what interactive ones leave.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.memory import CACHE_STEP, MemoryModel
from budmlx.core.row import Row
from budmlx.core.schedule.prefill import BackgroundShare, PrefillBudget
from budmlx.core.schedule.texts import TextQueue
from budmlx.core.schedule.view import GroupView, Placement, View
from budmlx.protocol import GenerateRequest
from budmlx.types import ModelInfo

Lengths = Sequence[Sequence[int]]
"""Tokens of each row, by group."""


class FairQueue:
    """Rows that wait, in one line per owner, each first come, first served.

    The next row is one of the owner with the fewest rows at work; of several such owners it is
    the one who has waited longest since its last start or its arrival. An owner without rows at
    work therefore waits for at most one start of every other owner, whatever they send.
    """

    def __init__(self) -> None:
        self._front = deque[Row]()  # requeued; they come before all others
        self._lines: dict[str, deque[Row]] = {}  # none empty, the longest without a start first

    def __len__(self) -> int:
        return len(self._front) + (sum(map(len, self._lines.values())) if self._lines else 0)

    def __iter__(self) -> Iterator[Row]:
        return chain(self._front, *self._lines.values())

    def add(self, row: Row) -> None:
        """Put a row at the end of its owner's line."""
        self._lines.setdefault(row.request.owner, deque()).append(row)

    @property
    def owners(self) -> set[str]:
        """The owners of all rows."""
        return {*self._lines, *(row.request.owner for row in self._front)}

    def head(self, owner: str) -> Row:
        """The first row of an owner that waits."""
        front = (row for row in self._front if row.request.owner == owner)
        return next(chain(front, self._lines.get(owner, ())))

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put rows that were at work before all others, in this order."""
        self._front.extendleft(reversed(rows))

    def put_behind(self, row: Row) -> None:
        """Put a row that made way at the head of its owner's line, and that behind the others."""
        line = self._lines.pop(row.request.owner, deque())
        line.appendleft(row)
        self._lines[row.request.owner] = line

    def next(self, rows: Iterable[Row]) -> list[Row]:
        """The next row, and those that prefill together with it; none is taken out.

        rows: all there are, waiting or not.

        Raises:
            ValueError: nobody waits.
        """
        if self._front:
            leader = self._front[0]
        else:
            busy = Counter(row.request.owner for row in self._at_work(rows))
            leader = self._lines[min(self._lines, key=busy.__getitem__)][0]
        if not leader.request.fork:
            return [leader]
        near = chain(self._front, self._lines.get(leader.request.owner, ()))
        return [row for row in near if row is leader or row.prefills_with(leader)]

    def take(self, rows: Sequence[Row]) -> None:
        """Remove rows of one owner that start now; the owner goes behind the others."""
        for row in rows:
            self.remove(row)
        owner = rows[0].request.owner
        if owner in self._lines:
            self._lines[owner] = self._lines.pop(owner)

    def remove(self, row: Row) -> None:
        """Remove a row that shall not run any more.

        Raises:
            ValueError: it does not wait.
        """
        if row in self._front:
            self._front.remove(row)
            return
        owner = row.request.owner
        if row not in (line := self._lines.get(owner, deque())):
            raise ValueError("the row does not wait")
        line.remove(row)
        if not line:
            del self._lines[owner]

    def to_preempt(self, rows: Iterable[Row]) -> Row:
        """The row to preempt first: the youngest of the owner with most rows at work.

        rows: all there are, the oldest first; at least one of them does not wait.
        """
        at_work = self._at_work(rows)
        busy = Counter(row.request.owner for row in at_work)
        most = max(busy.values())
        return next(row for row in reversed(at_work) if busy[row.request.owner] == most)

    def _at_work(self, rows: Iterable[Row]) -> list[Row]:
        waiting = set(self)
        return [row for row in rows if row not in waiting]


class Line:
    """The rows of one class that wait. Owners are compared by their rows of this class alone."""

    def __init__(self, *, background: bool):
        self.queue = FairQueue()
        self._background = background

    def of_class(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that are of this class."""
        return [row for row in rows if row.background == self._background]


class Waiting:
    """Rows that wait, in a line for each class; interactive ones come before all others."""

    def __init__(self) -> None:
        self.interactive = Line(background=False)
        self.background = Line(background=True)
        self.lines = (self.interactive, self.background)

    def __len__(self) -> int:
        return len(self.interactive.queue) + len(self.background.queue)

    def __iter__(self) -> Iterator[Row]:
        return chain(self.interactive.queue, self.background.queue)

    def of(self, row: Row) -> FairQueue:
        """The queue of a row's class."""
        return (self.background if row.background else self.interactive).queue

    def put_back(self, rows: Sequence[Row]) -> None:
        """See `FairQueue.put_back`."""
        for line in self.lines:
            line.queue.put_back(line.of_class(rows))

    def to_preempt(self, at_work: Sequence[Row]) -> Row:
        """The row that gives up its place first, of the background if there is one.

        at_work: the oldest first; at least one. See `FairQueue.to_preempt`.
        """
        background = self.background.of_class(at_work)
        return self.background.queue.to_preempt(background or at_work)

    def making_way(self, row: Row, at_work: Sequence[Row]) -> Row | None:
        """The row of the background that makes way for one that is not, if there is one."""
        background = [] if row.background else self.background.of_class(at_work)
        return self.background.queue.to_preempt(background) if background else None


class Admission:
    """Projects the bytes of rows against the memory limit.

    The prefix cache does not count, since rows have priority: it gets the memory that they leave.
    reserved: bytes of it that cannot be evicted. overhead: see `Placement`.
    """

    def __init__(self, info: ModelInfo, memory: MemoryModel, chunk: int, overhead: int):
        self.reserved = 0
        self._batchable = info.batchable
        self._context = info.context_length
        self._chunk = chunk
        self._overhead = overhead
        self._update(memory)

    def update(self, memory: MemoryModel) -> None:
        """Project with this from now on: the limit or the weights may be others."""
        if memory != self._memory:
            self._update(memory)

    def _update(self, memory: MemoryModel) -> None:
        self._memory = memory
        self._placement = Placement(memory.weights, memory.rectangle, self._overhead)
        self._longest = memory.longest_row(self._context, self._chunk)

    @property
    def longest(self) -> int:
        """Most tokens that a row alone may have, prompt and completion together."""
        return self._longest

    def fitting(self, request: GenerateRequest) -> GenerateRequest | None:
        """The request with no more tokens than a row alone may have; None if none are left."""
        room = min(request.max_tokens, self._longest - len(request.prompt_ids))
        return msgspec.structs.replace(request, max_tokens=room) if room > 0 else None

    def joined(self, groups: Lengths, rows: Iterable[Row]) -> list[list[int]]:
        """Lengths when caches have grown by a cache step and `rows` have joined the groups."""
        plan = _grown(groups)
        for row in rows:
            room = min(CACHE_STEP, row.request.max_tokens - row.produced)
            length = len(row.ids) + room
            index = self._placement.choose([length], plan) if self._batchable else None
            if index is None:
                plan.append([length])
            else:
                plan[index].append(length)
        return plan

    def fits(self, groups: Lengths) -> bool:
        """Whether these rows may run together; a row alone always may."""
        alone = len(groups) == 1 and len(groups[0]) == 1
        needed = self._memory.total(groups, self._chunk) + self.reserved
        return alone or needed <= self._memory.limit

    def spare(self, groups: Lengths) -> int:
        """Bytes of the limit that these rows leave, even if their caches grow now."""
        return self._memory.limit - self._memory.total(_grown(groups), self._chunk)


class Room:
    """Compares rows and texts with the memory limit; see `Admission`."""

    def __init__(self, admission: Admission, view: View, texts: TextQueue):
        self._admission = admission
        self._view = view
        self._texts = texts

    @property
    def spare(self) -> int:
        """Bytes of the limit that are left, even if caches grow now."""
        return self._admission.spare(self._lengths)

    @property
    def short(self) -> bool:
        """Whether what is there has outgrown the limit."""
        return not self._admission.fits(self._lengths)

    def takes(self, newcomers: Sequence[Row]) -> bool:
        """Whether rows fit in that begin now."""
        groups = [group.occupied for group in self._view.groups]
        rows = [*self._view.prefilling, *newcomers]
        return self._admission.fits(self._admission.joined([*groups, *self._texts.lengths], rows))

    def takes_text(self, tokens: int) -> bool:
        """Whether a text of so many tokens can be computed."""
        return self._admission.fits([*self._lengths, [tokens]])

    @property
    def _lengths(self) -> list[list[int]]:
        return [*self._view.lengths, *self._texts.lengths]


class Pace:
    """Times steps by the results of their plans; no clock is read here."""

    def __init__(self, view: View, texts: TextQueue, prefill: PrefillBudget):
        self._view = view
        self._texts = texts
        self._prefill = prefill
        self._share = BackgroundShare()
        self._stepping = 0
        self._seconds = 0.0
        self._masking = 0.0
        self._first_use = False

    def begin(self, waiting: Waiting) -> int:
        """Begin a step, see `View.beside`; returns the prompt tokens that it may compute."""
        view, texts = self._view, self._texts
        # Texts are seldom there.
        wanted = bool(texts.requests) and texts.interactive
        view.beside = beside = view.interactive or wanted
        ready = not view.waiting and not wanted and self._prefill.knows(view.decoding)
        work = view.background or (bool(texts.requests) and texts.background)
        view.resting = not self._share.begin(beside=beside, ready=ready, work=work)
        self._seconds = self._masking = 0.0
        self._first_use = False
        self._stepping = view.stepping
        rows = waiting.interactive.queue if beside else waiting
        others = wanted if beside else bool(texts.requests)
        return self._prefill.budget(view.decoding, len(rows) + view.waiting + others)

    def add(self, result: Result) -> None:
        """Count the result of a plan of the step."""
        self._seconds += result.seconds
        self._first_use |= result.first_use
        self._masking += result.masking

    def end(self, prefilled: int) -> None:
        """Learn from the step. prefilled: prompt tokens that it computed."""
        if self._first_use:
            return
        if not self._share.mixed:
            self._prefill.learn(self._seconds, prefilled=prefilled, decoding=self._stepping)
        quiet = self._prefill.quiet_step(self._stepping)
        if self._share.runs or not prefilled:
            self._share.learn(self._seconds, quiet)
        if self._masking and quiet and not self._share.mixed:
            self._view.learn(self._masking, quiet)


def _grown(groups: Lengths) -> list[list[int]]:
    return [[n + CACHE_STEP for n in group] for group in groups]


@dataclass(slots=True)
class PlanDraft:
    """Decisions that are not in a plan yet; the fields are those of `Plan`."""

    forget: bool = False
    keep: list[int] = field(default_factory=list)
    leave: list[int] = field(default_factory=list)
    requeue: list[int] = field(default_factory=list)
    compact: list[GroupView] = field(default_factory=list)
    admit: list[list[int]] = field(default_factory=list)
    room: int | None = None

    @property
    def pending(self) -> bool:
        """Whether there is anything that cannot wait for a plan with a forward pass."""
        return bool(self.forget or self.leave or self.requeue or self.compact or self.admit)

    def pop_room(self) -> int | None:
        """Return `room` and reset it."""
        room, self.room = self.room, None
        return room

    def plan(self, restore: int | None, *, save: bool) -> Plan:
        """A plan without forward passes that carries everything out."""
        return Plan(
            forget=self.forget,
            keep=self.keep,
            leave=self.leave,
            requeue=self.requeue,
            compact=list({group.id for group in self.compact if group.rows}),
            admit=self.admit,
            restore=restore,
            room=self.room,
            save=save,
        )
