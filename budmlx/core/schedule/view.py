"""View: the prompts and groups of the executor, as in its last result and as plans since then will
change them, and the choice of groups to merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.states import GroupState, PromptState
from budmlx.core.row import Row
from budmlx.core.schedule.prefill import PassChoice, PrefillPass, PromptView

# A merge copies the rectangles, so it must promise more than a few bytes.
MERGE_GAIN = 0.9
# A group whose step costs this many times more for each of its rows is heavy.
HEAVY = 4
# Weight of the newest measurement of what masks cost.
NEWEST = 0.2
# The share of a step that is taken for forward passes even if masks seem to take all of it.
LEAST_READING = 0.1


@dataclass(eq=False, slots=True)
class GroupView:
    """A group of the executor as of the last result; the fields are those of `GroupState`."""

    rows: list[Row]
    width: int
    span: int
    empty: bool
    _lengths: list[int] | None = field(default=None, init=False)

    def set_rows(self, rows: Iterable[Row]) -> None:
        """Replace the rows."""
        self.rows = list(rows)
        self._lengths = None

    @property
    def id(self) -> int:
        """The id by which plans name the group: that of one of its rows."""
        return self.rows[0].id

    @property
    def background(self) -> bool:
        """Whether its rows are of the background; no group has both."""
        return self.rows[0].background

    @property
    def constrained(self) -> bool:
        """Whether a row has a grammar, so that a step waits for the tokens of the one before."""
        return any(row.grammar is not None for row in self.rows)

    @property
    def mixed(self) -> bool:
        """Whether other rows wait with those that have a grammar."""
        return self.constrained and not all(row.grammar is not None for row in self.rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row's cache must have room for in the next step."""
        if self._lengths is None:
            self._lengths = [row.room for row in self.rows]
        return self._lengths

    @property
    def occupied(self) -> list[int]:
        """Tokens that the caches have room for, by slot: the size of the group in memory."""
        return [max(*self.lengths, self.span + 1)] * self.width

    def compact(self) -> bool:
        """Give up memory that no row needs; returns whether there was any."""
        longest = max(row.held for row in self.rows) if self.span else 0
        if self.width == len(self.rows) and self.span == longest:
            return False
        self.width, self.span = len(self.rows), longest
        return True


class Placement:
    """Compares the bytes that steps read, to say which rows share a batch.

    mlx-lm's batch caches are rectangles padded to the longest row, so every step costs a group
    its rectangle plus one more reading of the weights.

    weights: bytes of the model. rectangle: KV bytes of rows of the given lengths together.
    overhead: what a forward pass costs beside the bytes it reads, in bytes.
    """

    def __init__(self, weights: int, rectangle: Callable[[Sequence[int]], int], overhead: int):
        self._alone = weights + overhead
        self._rectangle = rectangle

    def cost(self, lengths: Sequence[int]) -> int:
        """Bytes that one step of a group reads."""
        return self._alone + self._rectangle(lengths)

    def choose(
        self,
        newcomers: Sequence[int],
        groups: Sequence[Sequence[int]],
        wait: Callable[[int], float] = lambda index: 0,
    ) -> int | None:
        """Index of the group that rows of these lengths should join; None: one of their own.

        wait: what joining a group costs besides, in bytes, by its index.
        """
        best, best_cost = None, float(self.cost(newcomers))
        for index, lengths in enumerate(groups):
            padded = self._rectangle([*lengths, *newcomers]) - self._rectangle(lengths)
            if (added := padded + wait(index)) < best_cost:
                best, best_cost = index, added
        return best

    def merge(
        self,
        groups: Sequence[Sequence[int]],
        wait: Callable[[int, int], float] = lambda first, second: 0,
    ) -> tuple[int, int] | None:
        """Indices of two groups that should become one, or None.

        wait: what a step of both together costs besides, in bytes, by their indices.
        """
        for i, first in enumerate(groups):
            for j in range(i + 1, len(groups)):
                apart = self.cost(first) + self.cost(groups[j])
                gain = MERGE_GAIN * apart - self.cost([*first, *groups[j]])
                if gain > 0 and wait(i, j) < gain:
                    return i, j
        return None

    def heavy(self, groups: Sequence[Sequence[int]]) -> list[bool]:
        """For each group whether it should decode only in every other step, so that a very long row
        does not halve the pace of many short ones.
        """
        costs = [self.cost(lengths) / len(lengths) for lengths in groups]
        least = min(costs, default=0)
        return [cost > HEAVY * least for cost in costs]


class View:
    """The prompts and groups of the executor, the oldest first, and what should run together.

    beside: interactive rows or texts are at work, so that background ones do not count.
    resting: those take no part in this step.
    """

    def __init__(self, executor: Executor):
        self.prompts: list[PromptView] = []
        self.groups: list[GroupView] = []
        self.beside = self.resting = False
        memory, numbers = executor.memory, executor.numbers
        self._placement = Placement(memory.weights, memory.rectangle, numbers.step_overhead)
        self._passes = PassChoice(
            paddable=executor.paddable, reuses=executor.reuse.enabled, multiple=numbers.multiple
        )
        self._batchable = executor.info.batchable
        self._masks: float | None = None

    def learn(self, masking: float, quiet: float) -> None:
        """Record what masks cost in a step in which they were made.

        masking: the host's seconds for them. quiet: seconds of steps without prompts, with masks.
        """
        read = sum(self._placement.cost(group.lengths) for group in self.groups)
        new = read * masking / max(quiet - masking, LEAST_READING * quiet, 1e-9)
        old = new if self._masks is None else self._masks
        self._masks = (1 - NEWEST) * old + NEWEST * new

    def update(
        self,
        prompts: Sequence[PromptState],
        groups: Sequence[GroupState],
        rows: Mapping[int, Row],
    ) -> None:
        """Replace the view by a result's. rows: all that the executor may name, by their ids."""
        self.prompts = [
            PromptView(
                [rows[i] for i in p.rows], p.computed, p.remaining, p.checkpoint, p.restoring
            )
            for p in prompts
        ]
        self.groups = [
            GroupView([rows[i] for i in g.rows], g.width, g.span, g.empty) for g in groups
        ]

    def admit(self, rows: Sequence[Row]) -> None:
        """Add a prompt whose prefill has not begun."""
        self.prompts.append(PromptView(list(rows), 0, len(rows[0].ids) - 1))

    def drop(self, rows: Iterable[Row]) -> None:
        """Take rows out of prompts and groups."""
        gone = set(rows)
        for prompt in self.prompts:
            prompt.rows = [row for row in prompt.rows if row not in gone]
        self.prompts = [prompt for prompt in self.prompts if prompt.rows]
        for group in self.groups:
            group.set_rows(row for row in group.rows if row not in gone)
            # Elsewhere the slots of rows that left stay vacant.
            group.width = group.width if group.span else len(group.rows)
        self.groups = [group for group in self.groups if group.rows]

    @property
    def prefilling(self) -> list[Row]:
        """The rows of all prompts."""
        return [row for prompt in self.prompts for row in prompt.rows]

    @property
    def interactive(self) -> bool:
        """Whether any row is not of the background."""
        return not all(each.background for each in self._everything)

    @property
    def background(self) -> bool:
        """Whether any row is of the background."""
        return any(each.background for each in self._everything)

    @property
    def _everything(self) -> Iterator[PromptView | GroupView]:
        yield from self.prompts
        yield from self.groups

    @property
    def waiting(self) -> int:
        """Rows whose prompt is not computed; without those of the background, if others are."""
        return sum(len(prompt.rows) for prompt in self.prompts if self._leads(prompt))

    @property
    def decoding(self) -> int:
        """Rows that generate; without those of the background, if others are at work."""
        return sum(len(group.rows) for group in self.groups if self._leads(group))

    @property
    def stepping(self) -> int:
        """Those of `decoding` that the next step computes.

        Rows of a group with all last tokens drawn are not among them.
        """
        groups = [group for group in self.groups if self._leads(group)]
        going = [group for group in groups if not all(row.last_step for row in group.rows)]
        return sum(len(group.rows) for group in going)

    def _leads(self, each: PromptView | GroupView) -> bool:
        return not (self.beside and each.background)

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens that everything has room for, by slot, of each group and prompt."""
        prompts = [[prompt.length] * len(prompt.rows) for prompt in self.prompts]
        return [*(group.occupied for group in self.groups), *prompts]

    # What runs together

    def next_pass(self, budget: int, *, oldest: bool) -> PrefillPass | None:
        """The next forward pass over prompts; None if no prompt is ready.

        budget: see `PassChoice.next`, as for `oldest`.
        """
        ready = [prompt for prompt in self.prompts if not prompt.restoring]
        ready = [each for each in ready if not each.background] or ([] if self.resting else ready)
        # Rows of one pass become a group.
        apart = self._masks is None or self._masks > self._placement.cost([])
        return self._passes.next(ready, budget, oldest=oldest, apart=apart) if ready else None

    def join(self, prefilled: Collection[Row]) -> list[tuple[int, int]]:
        """Let prefilled rows decode where it costs least: with others, or on their own.

        Returns the groups that merge, as a plan names them.
        """
        merges = []
        for newcomer in [group for group in self.groups if group.rows[0] in prefilled]:
            others = [group for group in self.groups if group is not newcomer]
            joinable = [group for group in others if self._joinable(group)]
            if not joinable or not self._joinable(newcomer):
                continue
            waits = [self._wait(group, newcomer) for group in joinable]
            lengths = [group.lengths for group in joinable]
            index = self._placement.choose(newcomer.lengths, lengths, waits.__getitem__)
            if index is not None:
                merges.append(self._merge(joinable[index], newcomer))
        return merges

    def merge_best(self) -> list[tuple[int, int]]:
        """Merge two groups that cost less as one, if there are any; see `join`."""
        if len(self.groups) < 2:
            return []
        joinable = [group for group in self.groups if self._joinable(group)]
        pair = self._placement.merge(
            [group.lengths for group in joinable],
            lambda first, second: self._wait(joinable[first], joinable[second]),
        )
        return [] if pair is None else [self._merge(joinable[pair[0]], joinable[pair[1]])]

    def turns(self, *, odd: bool) -> tuple[list[GroupView], list[GroupView]]:
        """The groups that take this step, and those that skip it.

        odd: whether this is a step that heavy groups skip; see `Placement.heavy`.
        """
        resting = [group for group in self.groups if self.resting and group.background]
        groups = [group for group in self.groups if group not in resting]
        if len(groups) < 2:
            return groups, resting
        heavy = self._placement.heavy([group.lengths for group in groups])
        waits = [odd and each for each in heavy]
        going = [g for g, skips in zip(groups, waits, strict=True) if not skips]
        # Those that wait for tokens come last, while the device is busy with the others.
        going.sort(key=lambda group: group.constrained)
        return going, [*resting, *(g for g, skips in zip(groups, waits, strict=True) if skips)]

    def _wait(self, first: GroupView, second: GroupView) -> float:
        """What the masks of one group cost the rows of another that shares its steps, in bytes.

        Groups of other classes share none, so that one can rest. Masks are made while the device
        runs the forward pass; it idles for what they take longer. As long as that is not known,
        the rows stay apart.
        """
        if first.background != second.background:
            return math.inf
        if first.constrained == second.constrained or first.mixed or second.mixed:
            return 0
        if self._masks is None:
            return math.inf
        return max(0, self._masks - self._placement.cost([*first.lengths, *second.lengths]))

    def _joinable(self, group: GroupView) -> bool:
        return self._batchable and not group.empty and not any(row.solo for row in group.rows)

    def _merge(self, group: GroupView, other: GroupView) -> tuple[int, int]:
        names = group.id, other.id
        self.groups.remove(other)
        # How many slots there will be is known by the next result.
        group.set_rows([*group.rows, *other.rows])
        group.width, group.span = len(group.rows), max(group.span, other.span)
        return names
