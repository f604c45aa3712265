"""States: what results say of prompts, of groups and of reading from disk."""

from __future__ import annotations

import msgspec


class PromptState(msgspec.Struct, frozen=True, array_like=True):
    """A prompt whose prefill is not finished.

    rows: the choices that fork from it. computed: tokens that its cache holds.
    remaining: tokens to compute; what is stored of the prompt is not among them.
    checkpoint: tokens up to the next place where its state is kept, if any.
    restoring: more of it is on disk, and worth waiting for.
    """

    rows: list[int]
    computed: int
    remaining: int
    checkpoint: int | None = None
    restoring: bool = False


class GroupState(msgspec.Struct, frozen=True, array_like=True):
    """A group, and the slots and tokens that its KV arrays have room for.

    width: slots, the vacant ones included. span: tokens that every slot takes, padding
    included; 0 where no slot can stay vacant. empty: a cache has no content, so that the group
    cannot merge.
    """

    rows: list[int]
    width: int
    span: int
    empty: bool


class DiskRead(msgspec.Struct, frozen=True, array_like=True):
    """Reading from disk during a plan. seconds: its duration. tokens: how many were read.

    declined: blocks that were not read, since reading does not pay.
    """

    seconds: float = 0.0
    tokens: int = 0
    declined: int = 0
