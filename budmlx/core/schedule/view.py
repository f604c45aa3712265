"""View: what the executor holds, as its last result said and as plans since then will change it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.placement import Placement
from budmlx.core.batch.plan import GroupState, PromptState
from budmlx.core.row import Row
from budmlx.core.schedule.passes import PassChoice, PrefillPass, PromptView


@dataclass(eq=False, slots=True)
class GroupView:
    """A group of the executor; the fields are those of `GroupState`."""

    rows: list[Row]
    width: int
    span: int
    empty: bool

    @property
    def id(self) -> int:
        """What names the group in a plan: one of its rows."""
        return self.rows[0].id

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row's cache must have room for in the next step."""
        return [row.room for row in self.rows]

    @property
    def occupied(self) -> list[int]:
        """Tokens that the caches have room for, by slot: what the group takes in memory."""
        return [max(*self.lengths, self.span + 1)] * self.width

    def compact(self) -> bool:
        """Give up memory that no row needs; whether there was any."""
        longest = max(row.held for row in self.rows) if self.span else 0
        if self.width == len(self.rows) and self.span == longest:
            return False
        self.width, self.span = len(self.rows), longest
        return True


class View:
    """The prompts and groups of the executor, the oldest first, and what should run together."""

    def __init__(self, executor: Executor):
        self.prompts: list[PromptView] = []
        self.groups: list[GroupView] = []
        self._placement = Placement(executor.memory.weights, executor.memory.rectangle)
        self._passes = PassChoice(paddable=executor.paddable, reuses=executor.reuses)
        self._batchable = executor.info.batchable

    def update(
        self,
        prompts: Sequence[PromptState],
        groups: Sequence[GroupState],
        rows: Mapping[int, Row],
    ) -> None:
        """Take in what a result says. rows: all that the executor may name, by their ids."""
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
        """Add a prompt, of which nothing is computed."""
        self.prompts.append(PromptView(list(rows), 0, len(rows[0].ids) - 1))

    def drop(self, rows: Iterable[Row]) -> None:
        """Take rows out of prompts and groups."""
        gone = set(rows)
        for prompt in self.prompts:
            prompt.rows = [row for row in prompt.rows if row not in gone]
        self.prompts = [prompt for prompt in self.prompts if prompt.rows]
        for group in self.groups:
            group.rows = [row for row in group.rows if row not in gone]
            # Elsewhere the slots of rows that left stay vacant.
            group.width = group.width if group.span else len(group.rows)
        self.groups = [group for group in self.groups if group.rows]

    @property
    def prefilling(self) -> list[Row]:
        """The rows of all prompts."""
        return [row for prompt in self.prompts for row in prompt.rows]

    @property
    def decoding(self) -> int:
        """How many rows generate."""
        return sum(len(group.rows) for group in self.groups)

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens that everything has room for, by slot, of each group and prompt."""
        prompts = [[prompt.length] * len(prompt.rows) for prompt in self.prompts]
        return [*(group.occupied for group in self.groups), *prompts]

    # What runs together

    def next_pass(self, budget: int, *, oldest: bool) -> PrefillPass | None:
        """What the next forward pass over prompts computes; None if none is ready.

        budget: see `PassChoice.next`, as for `oldest`.
        """
        ready = [prompt for prompt in self.prompts if not prompt.restoring]
        return self._passes.next(ready, budget, oldest=oldest) if ready else None

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
            lengths = [group.lengths for group in joinable]
            if (index := self._placement.choose(newcomer.lengths, lengths)) is not None:
                merges.append(self._merge(joinable[index], newcomer))
        return merges

    def merge_best(self) -> list[tuple[int, int]]:
        """Merge the two groups that had better be one, if there are any; see `join`."""
        joinable = [group for group in self.groups if self._joinable(group)]
        pair = self._placement.merge([group.lengths for group in joinable])
        return [] if pair is None else [self._merge(joinable[pair[0]], joinable[pair[1]])]

    def heavy(self) -> list[bool]:
        """Which groups should step less often."""
        return self._placement.heavy([group.lengths for group in self.groups])

    def _joinable(self, group: GroupView) -> bool:
        return self._batchable and not group.empty and not any(row.solo for row in group.rows)

    def _merge(self, group: GroupView, other: GroupView) -> tuple[int, int]:
        names = group.id, other.id
        self.groups.remove(other)
        # How many slots there will be is known by the next result.
        group.rows = [*group.rows, *other.rows]
        group.width, group.span = len(group.rows), max(group.span, other.span)
        return names
