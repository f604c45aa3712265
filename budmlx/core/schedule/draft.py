"""Draft: what the scheduler has decided and no plan says yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from budmlx.core.batch.plan import Plan
from budmlx.core.schedule.view import GroupView


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
