"""Drafting: what plans say of drafts, and what results say of them."""

from __future__ import annotations

import msgspec


class Drafting(msgspec.Struct, frozen=True, array_like=True):
    """What a group drafts. most: tokens of each row. model: the draft model drafts, too."""

    most: int = 0
    model: bool = False


NO_DRAFTS = Drafting()


class DraftPass(msgspec.Struct, frozen=True, array_like=True):
    """A step of a group with drafts.

    places: tokens that each row was fed, one of them not drafted. drafted, accepted: tokens of all
    rows, and those of them that the rows drew.
    model: passes of the draft model, each over one further token of all rows. model_seconds: what
    they took. behind: tokens of rows that it had to take in before.
    """

    places: int
    drafted: int
    accepted: int
    model: int = 0
    model_seconds: float = 0.0
    behind: int = 0
