"""Room: what the models that are loaded leave of the memory, and which of them may make way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from budmlx.engine.models.resident import Resident
from budmlx.engine.models.shares import fit, shares
from budmlx.units import size_text


@dataclass(frozen=True, slots=True)
class ResidencyPolicy:
    """How models share a device.

    budget: bytes for all of them; None for the device's. most: how many may be loaded.
    min_stay: seconds that a model stays after its load, whoever waits. when_full: whether
    requests wait for a model that has no room before others end. shrink_seconds: how long running
    rows may keep memory that another model is to get.
    """

    budget: int | None = None
    most: float = math.inf
    min_stay: float = 30.0
    when_full: Literal["wait", "fail"] = "wait"
    shrink_seconds: float = 60.0


class Room:
    """The models that share a device's memory. Whoever uses it has a lock.

    total: bytes for all of them; None as long as nobody has said what the device has. present:
    those that are loading, loaded or unloading.
    """

    def __init__(self, policy: ResidencyPolicy):
        self.total = policy.budget
        self.present: list[Resident] = []
        self._most = policy.most

    def holds(self, newcomer: Resident, others: Iterable[Resident] | None = None) -> bool:
        """Whether a model fits beside `others`, which are those that are present by default."""
        others = self.present if others is None else others
        together = {each.name: each.claim for each in (*others, newcomer)}
        enough = self.total is None or fit(together, self.total)
        return enough and len(together) <= self._most

    def candidates(self, newcomer: Resident) -> list[Resident]:
        """The models that may make way: those that nobody uses first, and the longest unused.

        Those that make vectors work for a chat model, which is the one that was used last: it
        does not make way for them, since each would be loaded in turn for every question.
        """
        loaded = sorted(
            (each for each in self.present if each.state == "loaded"),
            key=lambda each: (each.users > 0, each.used_at),
        )
        if newcomer.spec.embeds:
            chats = [each for each in loaded if not each.spec.embeds]
            loaded = [each for each in loaded if each not in chats[-1:]]
        return [each for each in loaded if not each.pinned]

    def may_come(self, newcomer: Resident) -> bool:
        """Whether there is room for a model once all have gone that may."""
        going = self.candidates(newcomer)
        return self.holds(newcomer, [each for each in self.present if each not in going])

    def outlook(self, resident: Resident) -> tuple[list[Resident], int | None]:
        """The models that would make way if `resident` were wanted now, the first to go first, and
        the bytes that it would have then: 0 if there is no room, None if nobody knows.
        """
        stay = [each for each in self.present if each is not resident]
        leaving: list[Resident] = []
        for each in self.candidates(resident):
            if self.holds(resident, stay):
                break
            if each is not resident:
                leaving.append(each)
                stay.remove(each)
        if not self.holds(resident, stay):
            return [], 0
        if self.total is None:
            return leaving, None
        claims = {each.name: each.claim for each in (*stay, resident)}
        return leaving, shares(claims, self.total)[resident.name]

    def limits(self) -> dict[str, int]:
        """Bytes for each model that is present; empty as long as nobody knows their sum."""
        claims = {each.name: each.claim for each in self.present}
        return {} if self.total is None else shares(claims, self.total)

    def refusal(self, resident: Resident) -> str:
        """Why there is no room for a model, with the numbers."""
        others = ", ".join(
            f"{each.name} ({size_text(each.claim.least)}{', pinned' if each.pinned else ''})"
            for each in self.present
        )
        total = self.total
        budget = f"{size_text(total)} for all models" if total else "the limit of models"
        return (
            f"{resident.name} needs about {size_text(resident.claim.least)}, and there is no room "
            f"for it within {budget}"
            + (f" beside {others}. Unload one of them" if others else "")
            + ", or raise --memory-budget or --max-models."
        )
