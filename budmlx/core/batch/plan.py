"""Plan and Result: the messages from the scheduler to the executor and back.

Both consist of numbers and ids, so that they pass through a socket. A plan holds everything that
does not follow from the plans before it: new rows, and what depends on a clock or a disk.
"""

from __future__ import annotations

import msgspec

from budmlx.core.batch.drafting import Drafting, DraftPass
from budmlx.core.batch.states import DiskRead, GroupState, PromptState
from budmlx.protocol import MemoryUse, RowFailed, Token, Vector


class Prefill(msgspec.Struct, frozen=True, array_like=True):
    """One forward pass over prompts, each named by its first row.

    tokens: how many are computed of the only prompt; several are computed whole, padded.
    """

    prompts: list[int]
    tokens: int = 0


class Embed(msgspec.Struct, frozen=True, array_like=True):
    """One forward pass over texts, each named by its request and its number there.

    tokens: how many further ones are computed of the only text; 0: all texts whole, padded.
    """

    texts: list[tuple[int, int]]
    tokens: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Actions of the executor, in the order of the fields. Rows are named by their ids.

    forget: drop what is stored for reuse, since a fault left it in doubt.
    keep: rows that are about to leave, whose KV is stored. leave: rows that are done with.
    requeue: rows that leave, and come back later to be prefilled from their tokens.
    compact: groups that give up vacant slots and padding.
    merge: pairs of groups, the second of which joins the first.
    admit: rows whose prefill begins, one list for the choices that share a prompt.
    restore: tokens that may be read from disk for prompts, one block in any case; 0: reading
    does not pay. None: nothing is read.
    room: bytes that may be kept for reuse from now on; None for as many as before.
    save: one block is written to disk.
    embed: a forward pass over texts, of which nothing is kept but their vectors.
    prefill: the forward pass over prompts, if there is one; those that it completes become a
    group, the last one. Its counts follow the last result, so nothing that changes what is stored
    or adds a prompt is in the same plan. decode: groups that take a step. draft: what
    each of these drafts; none do if it is empty. pause: groups that do not take a step,
    and whose last step is read all the same. Groups are named by any of their rows.
    """

    forget: bool = False
    keep: list[int] = []
    leave: list[int] = []
    requeue: list[int] = []
    compact: list[int] = []
    merge: list[tuple[int, int]] = []
    admit: list[list[int]] = []
    restore: int | None = None
    room: int | None = None
    save: bool = False
    embed: Embed | None = None
    prefill: Prefill | None = None
    decode: list[int] = []
    draft: list[Drafting] = []
    pause: list[int] = []


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a plan.

    tokens: those that were read, each row's in their order. vectors: those of texts.
    failed: rows that ended through a fault of their own; a later plan must let them leave.
    faults: rows of each action that raised, or requests of texts. They took no further part, and
    a later plan must requeue them or let them leave, and, for rows, forget what is stored.
    condemned: the device failed. All prompts and groups and all that was stored are gone, and none
    of what was read is delivered; a later plan must requeue all rows, and forget what is stored.
    prompts, groups: all there are now, the oldest first.
    passes: steps with drafts.
    seconds: how long the plan took. pace: seconds since the end of the plan before, where both did
    nothing but let groups decode. first_use: the time for building kernels may be among them.
    memory: what MLX has. masking: seconds in which groups waited for the masks of grammars.
    """

    tokens: list[Token]
    failed: list[RowFailed]
    faults: list[list[int]]
    prompts: list[PromptState]
    groups: list[GroupState]
    seconds: float
    disk: DiskRead
    memory: MemoryUse
    first_use: bool = False
    condemned: bool = False
    passes: list[DraftPass] = []
    pace: float | None = None
    masking: float = 0.0
    vectors: list[Vector] = []
