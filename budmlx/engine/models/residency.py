"""Residency: which models are loaded, and who makes way for whom."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from typing import Literal

from budmlx.engine.engine import Engine
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.engine.models.shares import fit, shares
from budmlx.errors import (
    BudmlxError,
    EngineClosedError,
    EngineUnavailableError,
    ModelLoadError,
    OverloadedError,
)
from budmlx.protocol import MemoryBudget
from budmlx.units import size_text

log = logging.getLogger(__name__)

Open = Callable[[ModelSpec, int | None, Callable[[str], None]], Engine]
"""Loads a model. Its arguments: the model; bytes that it may use, None for the device's; what is
called with words meanwhile. Raises ModelLoadError or ConfigError."""
Action = Callable[[], None]

RETRY_SECONDS = 10.0
"""A model that could not be loaded is not tried again for this long."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for a load to end; the process of its core ends with ours."""
LONGEST_WAIT = 86400.0
"""Seconds. Locks cannot wait for much longer times; what is due later is looked at again."""


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


class Residency:
    """Loads models that are wanted, and unloads others first where there is no room. Thread-safe.

    Wanted models stand in one line and are loaded by one thread, one after the other, however
    many wait for each. A model makes way when it is not pinned and has stayed for a while: first
    those that nobody uses, the least recently used one first; then others, whose running requests
    end first while new ones stand in line.
    """

    def __init__(self, open_engine: Open, policy: ResidencyPolicy):
        self._open = open_engine
        self._policy = policy
        self._total = policy.budget
        self._changed = threading.Condition()  # and the lock of all that follows
        self._line: deque[Resident] = deque()
        self._present: list[Resident] = []  # loading, loaded or unloading
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def total(self) -> int | None:
        """Bytes for all models; None as long as nothing was loaded that could say."""
        return self._total

    def request(self, resident: Resident) -> Engine | Future[Engine]:
        """Hold a model: its engine, or what becomes it. Each is to be released, or left.

        Raises:
            ModelLoadError: it can never fit, or could not be loaded a moment ago.
            OverloadedError: it has no room now, and nobody waits by the policy.
            EngineClosedError: the models were closed.
        """
        with self._changed:
            if self._closed:
                raise EngineClosedError("The models are closed.")
            if resident.state == "loaded":
                assert resident.engine is not None
                resident.users += 1
                return resident.engine
            if resident.error and time.monotonic() < resident.failed_at + RETRY_SECONDS:
                raise resident.error
            if resident.state in ("unloaded", "failed"):
                self._refuse_what_never_fits(resident)
            future: Future[Engine] = Future()
            resident.waiting.append(future)
            if resident.state != "loading" and resident not in self._line:
                self._line.append(resident)
            self._wake()
            return future

    def release(self, resident: Resident) -> None:
        """Undo one `request` that gave an engine."""
        with self._changed:
            resident.users -= 1
            resident.used_at = time.monotonic()
            if not resident.users and (self._line or resident.state != "loaded"):
                self._changed.notify_all()
            elif resident.idle_seconds < math.inf:
                self._wake()

    def withdraw(self, resident: Resident, future: Future[Engine]) -> None:
        """Give up waiting."""
        if not future.cancel() and future.exception() is None:
            self.release(resident)

    def leave(self, resident: Resident, future: Future[Engine]) -> None:
        """Give up waiting, and have the model loaded anyway: whoever comes back finds it."""

        def given(done: Future[Engine]) -> None:
            if not done.cancelled() and done.exception() is None:
                self.release(resident)

        future.add_done_callback(given)

    def unload(self, resident: Resident) -> Future[None]:
        """Unload a model when those who use it are done. The future is done when it is gone."""
        done: Future[None] = Future()
        with self._changed:
            if resident not in self._present:
                done.set_result(None)
                return done
            resident.leaving.append(done)
            if resident.state == "loaded":
                resident.state = "unloading"
            self._wake()
        return done

    def keep(self, resident: Resident, seconds: float) -> None:
        """Unload a model that is not pinned once nobody has used it for so long.

        seconds: infinite to keep it as long as nothing else needs its room. Its settings count
        again after it was unloaded. Nothing is changed for a model that is not loaded.
        """
        with self._changed:
            if resident not in self._present:
                return
            resident.idle_seconds = seconds
            if resident.idle_until() is not None:
                self._wake()

    def outlook(self, resident: Resident) -> tuple[list[Resident], int | None]:
        """The models that would make way if `resident` were wanted now, the first to go first, and
        the bytes that it would have then: 0 if there is no room, None if nobody knows.
        """
        with self._changed:
            stay = [each for each in self._present if each is not resident]
            leaving: list[Resident] = []
            for each in self._candidates():
                if self._has_room(resident, stay):
                    break
                if each is not resident:
                    leaving.append(each)
                    stay.remove(each)
            if not self._has_room(resident, stay):
                return [], 0
            if self._total is None:
                return leaving, None
            claims = {each.name: each.claim for each in (*stay, resident)}
            return leaving, shares(claims, self._total)[resident.name]

    def adopt(self, resident: Resident, engine: Engine) -> None:
        """Take a model that is loaded already."""
        with self._changed:
            resident.loaded(engine)
            self._present.append(resident)

    def close(self) -> None:
        """Close every engine; who waits gets EngineClosedError. Idempotent."""
        with self._changed:
            self._closed = True
            for resident in {*self._line, *self._present}:
                resident.fail_waiting(EngineClosedError("The models were closed."))
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        for resident in self._present:
            if resident.engine is not None:
                resident.engine.close()

    # The thread

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="budmlx-models", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()

    def _next(self) -> Action | None:
        """What to do next, waiting for something; None at the end."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if (action := self._due(now)) is not None:
                    return action
                self._changed.wait(self._patience(now))
            return None

    def _due(self, now: float) -> Action | None:
        for resident in self._present:
            until = resident.idle_until()
            if until is not None and until <= now:
                resident.state = "unloading"
            if resident.state == "unloading" and not resident.users:
                return partial(self._unload, resident)
        while self._line:
            head = self._line[0]
            if not head.wanted:
                self._line.popleft()
            elif head.state == "unloading":  # it comes back when it is gone
                return None
            elif self._has_room(head, self._present):
                self._line.popleft()
                head.state, head.error = "loading", None
                self._present.append(head)
                return partial(self._load, head)
            elif leaving := self._to_unload(head, now):
                for resident in leaving:
                    resident.state = "unloading"
                return self._due(now)
            elif head.waiting:
                return None
        return None

    def _patience(self, now: float) -> float | None:
        """Seconds until something is due by the clock; None if nothing is."""
        times = [until for each in self._present if (until := each.idle_until()) is not None]
        if self._line:
            times += [each.loaded_at + self._policy.min_stay for each in self._present]
        waits = (max(0.01, at - now) for at in times if at > now)
        return min((min(each, LONGEST_WAIT) for each in waits), default=None)

    # Room

    def _has_room(self, newcomer: Resident, others: Iterable[Resident]) -> bool:
        together = {each.name: each.claim for each in (*others, newcomer)}
        enough = self._total is None or fit(together, self._total)
        return enough and len(together) <= self._policy.most

    def _to_unload(self, head: Resident, now: float) -> list[Resident]:
        """The models that make way; none if somebody has to be waited for first.

        By the policy, all who wait for `head` may be refused instead.
        """
        leaving: list[Resident] = []
        if any(each.state == "unloading" for each in self._present):
            return leaving
        for each in self._candidates():
            if now < each.loaded_at + self._policy.min_stay:
                continue
            if each.users and self._policy.when_full == "fail":
                break
            leaving.append(each)
            if self._has_room(head, [one for one in self._present if one not in leaving]):
                return leaving
        if self._policy.when_full == "fail":
            self._line.popleft()
            head.fail_waiting(OverloadedError(self._no_room(head)))
        return []

    def _candidates(self) -> list[Resident]:
        """The models that may make way: those that nobody uses first, and the longest unused."""
        stays = [each for each in self._present if each.state == "loaded" and not each.pinned]
        return sorted(stays, key=lambda each: (each.users > 0, each.used_at))

    def _refuse_what_never_fits(self, resident: Resident) -> None:
        stay = [each for each in self._present if each.pinned and each is not resident]
        if self._has_room(resident, stay):
            return
        error = ModelLoadError(self._no_room(resident))
        resident.failed(error)
        raise error

    def _no_room(self, resident: Resident) -> str:
        others = ", ".join(
            f"{each.name} ({size_text(each.claim.least)}{', pinned' if each.pinned else ''})"
            for each in self._present
        )
        total = self._total
        budget = f"{size_text(total)} for all models" if total else "the limit of models"
        return (
            f"{resident.name} needs about {size_text(resident.claim.least)}, and there is no room "
            f"for it within {budget}"
            + (f" beside {others}. Unload one of them" if others else "")
            + ", or raise --memory-budget or --max-models."
        )

    def _limits(self) -> dict[str, int]:
        """Bytes for each model that is present; empty as long as nobody knows their sum."""
        claims = {each.name: each.claim for each in self._present}
        return {} if self._total is None else shares(claims, self._total)

    def _share_out(self, limits: dict[str, int], *, larger: bool) -> list[Future[MemoryBudget]]:
        """Tell models their limits: those that grow, or those that shrink."""
        told = []
        for resident in self._present:
            limit = limits.get(resident.name)
            if resident.engine is None or limit is None:
                continue
            if (limit > resident.limit) is larger and limit != resident.limit:
                resident.limit = limit
                told.append(resident.engine.set_memory_limit(limit))
        return told

    # Loading and unloading, on the thread

    def _load(self, resident: Resident) -> None:
        engine, begin = None, time.monotonic()
        try:
            limits = self._make_room()
            engine = self._open(resident.spec, limits.get(resident.name), partial(_tell, resident))
        except BudmlxError as error:
            problem = error
        except Exception:  # the boundary of the thread: those who wait must know
            log.exception("Loading %s failed", resident.name)
            problem = ModelLoadError(f"{resident.name} could not be loaded; the log says more.")
        with self._changed:
            resident.progress = ""
            if engine is None:
                self._present.remove(resident)
                resident.failed(problem)
            elif self._closed:
                engine.close()
            else:
                resident.loaded(engine)
                resident.load_seconds = time.monotonic() - begin
                if resident.leaving:
                    resident.state = "unloading"
                self._total = self._total or engine.status().budget.device
            self._share_out(self._limits(), larger=True)

    def _make_room(self) -> dict[str, int]:
        """Shrink the models that are loaded; returns the limits of all.

        Raises:
            EngineUnavailableError: one of them does not give up its memory.
        """
        with self._changed:
            limits = self._limits()
            shrinking = self._share_out(limits, larger=False)
        try:
            for kept in shrinking:
                kept.result(self._policy.shrink_seconds)
        except (FutureTimeoutError, EngineClosedError):
            raise EngineUnavailableError(
                "Long requests of other models still use the memory; retry later."
            ) from None
        return limits

    def _unload(self, resident: Resident) -> None:
        engine = resident.engine
        assert engine is not None
        engine.close()
        log.info("%s is unloaded.", resident.name)
        with self._changed:
            self._present.remove(resident)
            resident.gone()
            self._share_out(self._limits(), larger=True)


def _tell(resident: Resident, words: str) -> None:
    resident.progress = words
    if resident.notice is not None:
        resident.notice(words)
