"""Residency: which models are loaded, and who makes way for whom."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import replace
from functools import partial

from budmlx.engine.engine import Engine
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.engine.models.room import ResidencyPolicy, Room
from budmlx.errors import (
    BudmlxError,
    EngineClosedError,
    EngineUnavailableError,
    ModelLoadError,
    OverloadedError,
)
from budmlx.protocol import MemoryBudget
from budmlx.threads import run_apart

log = logging.getLogger(__name__)

Open = Callable[[ModelSpec, int | None, Callable[[str], None]], Engine]
"""Loads a model. Its arguments: the model; bytes that it may use, None for the device's; what is
called with words meanwhile. Raises ModelLoadError or ConfigError."""
Find = Callable[[ModelSpec, Callable[[str], None]], ModelSpec]
"""Finds the files of a model, and fetches them if it may; gives the model with their size. Its
second argument is called with words meanwhile. Raises ModelLoadError."""
Action = Callable[[], None]

RETRY_SECONDS = 10.0
"""A model that could not be loaded is not tried again for this long."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for a load to end; the process of its core ends with ours."""
LONGEST_WAIT = 86400.0
"""Seconds. Locks cannot wait for much longer times; what is due later is looked at again."""


class Residency:
    """Loads models that are wanted, and unloads others first where there is no room. Thread-safe.

    Wanted models stand in one line and are loaded by one thread, one after the other, however
    many wait for each. Those whose size is not known are found first, each on a thread of its
    own, so that a download holds up no other. A model makes way when it is not pinned and has
    stayed for a while: first those that nobody uses, the least recently used one first; then
    others, whose running requests end first while new ones stand in line.
    """

    def __init__(self, open_engine: Open, find: Find, policy: ResidencyPolicy):
        self._open = open_engine
        self._find = find
        self._policy = policy
        self._room = Room(policy)
        self._changed = threading.Condition()  # reentrant, and the lock of all that follows
        self._line: deque[Resident] = deque()
        self._present = self._room.present
        self._sought: set[Resident] = set()  # their files are being found
        self._closed = False
        self._thread: threading.Thread | None = None

    def learn_total(self, total: int | None) -> None:
        """Take the bytes that the device has for all models, if nobody has said them yet."""
        with self._changed:
            self._room.total = self._room.total or total

    @property
    def total(self) -> int | None:
        """Bytes for all models; None as long as nobody has said what the device has."""
        return self._room.total

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
                self._stand_in_line(resident)
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
            return self._room.outlook(resident)

    def adopt(self, resident: Resident, engine: Engine) -> None:
        """Take a model that is loaded already."""
        with self._changed:
            resident.loaded(engine)
            self._present.append(resident)
            self.learn_total(engine.status().budget.device)

    def close(self) -> None:
        """Close every engine; who waits gets EngineClosedError. Idempotent."""
        with self._changed:
            self._closed = True
            for resident in {*self._line, *self._present, *self._sought}:
                resident.fail_waiting(EngineClosedError("The models were closed."))
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        for resident in self._present:
            if resident.engine is not None:
                resident.engine.close()

    def learn(self, resident: Resident, spec: ModelSpec) -> None:
        """Take what the files of a model say, if nobody knew it yet."""
        with self._changed:
            if not resident.spec.weights and resident.idle:
                resident.spec = replace(spec, fetch=resident.spec.fetch)

    # Finding, on a thread of its own

    def _stand_in_line(self, resident: Resident) -> None:
        if resident.spec.found or resident.state == "unloading":
            self._line.append(resident)
        else:
            resident.state, resident.error = "loading", None
            self._sought.add(resident)
            run_apart("budmlx-find", partial(self._look_for, resident))

    def _look_for(self, resident: Resident) -> None:
        problem: BudmlxError | None = None
        try:
            spec = self._find(resident.spec, partial(_tell, resident))
        except Exception as error:  # the boundary of the thread: those who wait must know
            problem = _said(resident, error)
        with self._changed:
            self._sought.discard(resident)
            resident.progress = ""
            if problem is not None:
                resident.failed(problem)
            elif not self._closed:  # then they have been told
                # Settings may have changed meanwhile.
                resident.spec = replace(spec, config=resident.spec.config)
                resident.state = "unloaded"
                with suppress(ModelLoadError):  # those who wait are told
                    self._refuse_what_never_fits(resident)
                    self._line.append(resident)
                    self._wake()

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
            elif self._room.holds(head):
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

    def _to_unload(self, head: Resident, now: float) -> list[Resident]:
        """The models that make way; none if somebody has to be waited for first.

        By the policy, all who wait for `head` may be refused instead.
        """
        leaving: list[Resident] = []
        if any(each.state == "unloading" for each in self._present):
            return leaving
        for each in self._room.candidates(head):
            if now < each.loaded_at + self._policy.min_stay:
                continue
            if each.users and self._policy.when_full == "fail":
                break
            leaving.append(each)
            if self._room.holds(head, [one for one in self._present if one not in leaving]):
                return leaving
        if self._policy.when_full == "fail" or not self._room.may_come(head):
            self._line.popleft()
            head.fail_waiting(OverloadedError(self._room.refusal(head)))
        return []

    def _refuse_what_never_fits(self, resident: Resident) -> None:
        stay = [each for each in self._present if each.pinned and each is not resident]
        if self._room.holds(resident, stay):
            return
        error = ModelLoadError(self._room.refusal(resident))
        resident.failed(error)
        raise error

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
        except Exception as error:  # the boundary of the thread: those who wait must know
            problem = _said(resident, error)
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
                self.learn_total(engine.status().budget.device)
            self._share_out(self._room.limits(), larger=True)

    def _make_room(self) -> dict[str, int]:
        """Shrink the models that are loaded; returns the limits of all.

        Raises:
            EngineUnavailableError: one of them does not give up its memory.
        """
        with self._changed:
            limits = self._room.limits()
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
            self._share_out(self._room.limits(), larger=True)


def _said(resident: Resident, error: Exception) -> BudmlxError:
    """What those who wait are told of an error."""
    if isinstance(error, BudmlxError):
        return error
    log.error("Loading %s failed", resident.name, exc_info=error)
    return ModelLoadError(f"{resident.name} could not be loaded; the log says more.")


def _tell(resident: Resident, words: str) -> None:
    resident.progress = words
    if resident.notice is not None:
        resident.notice(words)
