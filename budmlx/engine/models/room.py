"""Room: what the models that are loaded leave of the memory, and which of them may make way."""

from __future__ import annotations

from collections.abc import Iterable

from budmlx.engine.models.resident import Resident
from budmlx.engine.models.shares import fit, shares
from budmlx.units import size_text


class Room:
    """The models that share a device's memory. Whoever uses it has a lock.

    total: bytes for all of them; None as long as nobody has said what the device has. most: how
    many may be loaded. present: those that are loading, loaded or unloading.
    """

    def __init__(self, total: int | None, most: float):
        self.total = total
        self.present: list[Resident] = []
        self._most = most

    def holds(self, newcomer: Resident, others: Iterable[Resident] | None = None) -> bool:
        """Whether a model fits beside `others`, which are those that are present by default."""
        others = self.present if others is None else others
        together = {each.name: each.claim for each in (*others, newcomer)}
        enough = self.total is None or fit(together, self.total)
        return enough and len(together) <= self._most

    def candidates(self) -> list[Resident]:
        """The models that may make way: those that nobody uses first, and the longest unused."""
        stays = [each for each in self.present if each.state == "loaded" and not each.pinned]
        return sorted(stays, key=lambda each: (each.users > 0, each.used_at))

    def outlook(self, resident: Resident) -> tuple[list[Resident], int | None]:
        """The models that would make way if `resident` were wanted now, the first to go first, and
        the bytes that it would have then: 0 if there is no room, None if nobody knows.
        """
        stay = [each for each in self.present if each is not resident]
        leaving: list[Resident] = []
        for each in self.candidates():
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
