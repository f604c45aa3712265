"""Ranks: the processes that compute one model together, as one core."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence

import msgspec

from budmlx.engine.hosts.child import KILL_SECONDS, Child, End
from budmlx.engine.hosts.machines import MachinePool
from budmlx.engine.hosts.ports import free_port
from budmlx.engine.hosts.remote import RemoteChild
from budmlx.protocol import (
    CoreSettings,
    FromCore,
    Loaded,
    LoadFailed,
    MemoryBudget,
    MemoryLimitSet,
    MemoryUse,
    Place,
    SetMemoryLimit,
    StepFrame,
    ToCore,
)
from budmlx.protocol.channel import FrameError
from budmlx.protocol.note import Note

HOST = "127.0.0.1"

# Looks without a pulse of a rank after which it counts as stopped, where the group hangs.
_STILL_LOOKS = 4
# Seconds between two looks at a follower that says nothing.
_LOOK_SECONDS = 1.0


class RankGroup:
    """All ranks of a model: one unit, which ends as a whole as soon as one of them does.

    It is used like a `Child`. Its bounds of memory are those of all ranks together.

    watchdog_seconds: of a rank that is stopped, also where there is nothing to do. pool: other
    machines, which have all ranks but the first; None for ranks of this machine.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: CoreSettings,
        watchdog_seconds: float,
        pool: MachinePool | None = None,
    ):
        self._size = settings.ranks
        self._pool = pool
        self._watchdog_seconds = watchdog_seconds
        self._stopped = [False] * settings.ranks
        self._loaded = False
        self._failed: LoadFailed | None = None
        self._first: int | None = None  # the rank that ended before the others
        self._pulses: list[int] = []
        self._moved = 0
        self._still = 0  # looks since the pulses of all ranks moved
        self._members: list[Child | RemoteChild] = []
        own = self._of_one(settings)
        place = choose_place(self._size) if pool is None else pool.place()
        try:
            for rank in range(self._size):
                self._members.append(self._started(rank, command, own, place))
        except BaseException:
            for member in self._members:
                member.kill()
                member.reap()
            raise
        self._watchers = [
            threading.Thread(target=self._watch, args=(rank,), name=f"budmlx-rank-{rank}")
            for rank in range(1, self._size)
        ]
        for thread in self._watchers:
            thread.daemon = True
            thread.start()

    def _started(
        self, rank: int, command: Sequence[str], settings: CoreSettings, place: Place
    ) -> Child | RemoteChild:
        if rank:
            place = msgspec.structs.replace(place, rank=rank, certificate=None)
        pool = self._pool
        here = self._size if pool is None else pool.here(rank)
        own = msgspec.structs.replace(settings, place=place, here=here)
        if rank and pool is not None:
            return pool.child(rank, own, max(self._watchdog_seconds, _STILL_LOOKS + 1.0))
        return Child(command, own)

    def _name(self, *ranks: int) -> str:
        """Ranks in words, with their machines."""
        names = (
            f"{rank} ({self._pool.name(rank)})" if self._pool and rank else str(rank)
            for rank in ranks
        )
        return f"rank {', '.join(names)} of {self._size}"

    def post(self, messages: Sequence[ToCore]) -> None:
        """See `Child`: rank 0 gets the messages."""
        size = self._size
        self._members[0].post(
            [
                SetMemoryLimit(each.limit // size) if isinstance(each, SetMemoryLimit) else each
                for each in messages
            ]
        )

    def receive(self, timeout: float | None) -> FromCore | None:
        """See `Child`: what rank 0 says, or why another rank could not load."""
        try:
            frame = self._members[0].receive(timeout)
        except EOFError:
            if (failed := self._failed) is None:
                raise
            return failed
        self._loaded = self._loaded or isinstance(frame, Loaded)
        if isinstance(frame, LoadFailed) and frame.ranks:
            for thread in self._watchers:  # what it waited for may have a reason of its own
                thread.join(_LOOK_SECONDS)
            return self._failed if self._failed and not self._failed.ranks else frame
        return None if frame is None else self._of_all(frame)

    @property
    def stopped(self) -> str:
        """Which ranks give no sign of life, in words; empty if all do."""
        ranks = [rank for rank, is_so in enumerate(self._stopped) if is_so]
        return f"{self._name(*ranks)} is stopped" if ranks else ""

    def note(self) -> Note:
        """See `Child`: what rank 0 does, with pulses that stand still when those of a rank do."""
        notes = [member.note() for member in self._members]
        pulses = [note.pulses for note in notes]
        if not self._pulses or all(a != b for a, b in zip(pulses, self._pulses, strict=True)):
            self._pulses = pulses
            self._moved += 1
            self._still = 0
        else:
            self._still += 1
        first = notes[0]
        allowed = max(note.allowed for note in notes)
        return Note(first.beats, allowed, first.longest, self._moved, first.plugin, first.computes)

    def kill(self) -> None:
        """End all of them, also stopped ones."""
        for member in self._members:
            member.kill()

    def wait_gone(self, seconds: float, stop: threading.Event) -> bool:
        """See `Child`."""
        end = time.monotonic() + seconds
        return all(
            member.wait_gone(max(end - time.monotonic(), 0.0), stop) for member in self._members
        )

    def end_hung(self, silence: float) -> End:
        """See `Child`."""
        pulses = [member.note().pulses for member in self._members]
        still = [rank for rank, old in enumerate(self._pulses) if pulses[rank] == old]
        end = self._members[0].end_hung(silence)
        self._reap_followers()
        if self._still >= _STILL_LOOKS and 0 < len(still) < self._size:
            return End(f"{self._name(*still)} is stopped", end.plugin, "hang")
        return end

    def reap(self) -> End:
        """See `Child`."""
        if self._first is None:
            self._first = 0
        ends = self._reap()
        first = ends[self._first]
        if self._stopped[self._first]:
            return End(self.stopped, kind="hang")
        how = f"{self._name(self._first)} was lost: {first.how}"
        return End(how, first.plugin, first.kind)

    def _reap(self) -> list[End]:
        # Rank 0 first: it may be about to end by itself.
        return [self._members[0].reap(), *self._reap_followers()]

    def _reap_followers(self) -> list[End]:
        for member in self._members[1:]:
            member.kill()
        for thread in self._watchers:
            thread.join(KILL_SECONDS)
        return [member.reap() for member in self._members[1:]]

    def _watch(self, rank: int) -> None:
        """Thread body: end all ranks when this one ends, or is stopped for too long."""
        member = self._members[rank]
        pulses, still = 0, 0
        with contextlib.suppress(EOFError, FrameError):
            while still < max(_STILL_LOOKS + 1, self._watchdog_seconds / _LOOK_SECONDS):
                message = member.receive(_LOOK_SECONDS)
                if isinstance(message, LoadFailed):
                    self._failed = self._failed or message
                before, pulses = pulses, member.note().pulses
                # While it loads, its threads may have to wait for their turn.
                still = still + 1 if self._loaded and pulses == before else 0
                self._stopped[rank] = still >= _STILL_LOOKS
        if self._first is None:
            self._first = rank
        self.kill()

    # Bounds and figures, of all ranks or of one

    def _of_one(self, settings: CoreSettings) -> CoreSettings:
        limit, cache = settings.memory_limit, settings.prefix_cache
        return msgspec.structs.replace(
            settings,
            machines=None,
            memory_limit=limit and limit // self._size,
            prefix_cache=cache if cache <= 1 else cache / self._size,
        )

    def _of_all(self, frame: FromCore) -> FromCore:
        if isinstance(frame, StepFrame):
            use = frame.memory
            memory = MemoryUse(*(self._size * n for n in (use.active, use.unused, use.peak)))
            report = frame.report
            if report is not None:
                report = msgspec.structs.replace(report, stored=self._size * report.stored)
            return msgspec.structs.replace(frame, memory=memory, report=report)
        if isinstance(frame, Loaded | MemoryLimitSet):
            return msgspec.structs.replace(frame, budget=self._budget(frame.budget))
        return frame

    def _budget(self, budget: MemoryBudget) -> MemoryBudget:
        size = self._size
        return msgspec.structs.replace(
            budget,
            limit=size * budget.limit,
            weights=size * budget.weights,
            prefix_cache=size * budget.prefix_cache,
            device=size * budget.device,
        )


def choose_place(size: int) -> Place:
    """Addresses of this machine for `size` ranks, and a new secret; for rank 0.

    Raises:
        OSError: no port is free.
    """
    with contextlib.ExitStack() as held:
        ports = [free_port(held, HOST) for _ in range(size + 1)]
    control, *ring = (f"{HOST}:{port}" for port in ports)
    return Place(rank=0, ring=ring, control=control, secret=secrets.token_hex(32))
