"""Rank 0: tells the other ranks what it is about to run."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from budmlx.core.activity import Activity
from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.batch.prefill import stored
from budmlx.core.model.device_faults import DeviceLostError
from budmlx.core.model.model import Model
from budmlx.core.model.ranks import Ranks
from budmlx.core.ranks.facts import differing, facts_of
from budmlx.core.ranks.joining import await_followers
from budmlx.core.ranks.messages import Begin, FromFollower, Limit, Look, Ready, Turn, digest
from budmlx.core.reuse.interface import Reusing
from budmlx.core.row import Row
from budmlx.errors import RanksError
from budmlx.protocol import CoreSettings, GenerateRequest, Place, RowFailed
from budmlx.protocol.channel import Channel, FrameError
from budmlx.types import SamplingParams

NO_SESSIONS = "A model that is split over ranks has no sessions: each rank has a part of the KV."


class NoRanks:
    """The other ranks of a core that is alone: none."""

    ranks: Ranks | None = None

    def clock(self) -> float:
        """The time for what is retained."""
        return time.monotonic()

    def loaded(self, model: Model, settings: CoreSettings) -> int:
        """The bytes that the model may take on the rank that has least of them."""
        return model.memory.limit

    def stored(self, reuse: Reusing, namespace: str, keys: list[int]) -> int:
        """How many tokens of a prompt are in memory. Who looks, uses them."""
        return stored(reuse, namespace, keys)

    def executor(
        self,
        model: Model,
        reuse: Reusing | None = None,
        activity: Activity | None = None,
        *,
        replaceable: bool = False,
    ) -> Executor:
        """See `Executor`."""
        return Executor(model, reuse, activity, replaceable=replaceable)


class Followers(NoRanks):
    """The other ranks, as rank 0 sees them. ranks: MLX's group, connected. now: the time of the
    turn that runs.
    """

    def __init__(self, place: Place):
        """Wait for all of them. Raises RanksError."""
        self._channels: Mapping[int, Channel[FromFollower]] = await_followers(place)
        self.ranks = Ranks.connect(place)
        self.now = time.monotonic()

    def clock(self) -> float:
        """The time for what is retained, the same on all ranks."""
        return self.now

    def loaded(self, model: Model, settings: CoreSettings) -> int:
        """See `NoRanks`; wait until they have loaded the model, too.

        Raises:
            RanksError: one did not, or has another.
        """
        least, facts = model.memory.limit, facts_of(model, settings)
        for rank, channel in self._channels.items():
            try:
                ready = channel.receive(None)
            except (EOFError, FrameError) as error:
                raise RanksError(f"Rank {rank} did not load the model.") from error
            if not isinstance(ready, Ready):
                raise RanksError(f"Rank {rank} did not load the model.")
            if problem := differing(facts, ready.facts):
                raise RanksError(f"Rank {rank} differs from rank 0: {problem}.")
            least = min(least, ready.limit)
        return least

    def send(self, message: msgspec.Struct) -> None:
        """Send a message to each.

        Raises:
            DeviceLostError: one is gone.
        """
        for rank, channel in self._channels.items():
            try:
                channel.send(message)
            except OSError as error:
                raise DeviceLostError(f"rank {rank} is gone: {error}") from error

    def stored(self, reuse: Reusing, namespace: str, keys: list[int]) -> int:
        """See `NoRanks`: all ranks look."""
        self.send(Look(namespace, keys))
        return super().stored(reuse, namespace, keys)

    def executor(
        self,
        model: Model,
        reuse: Reusing | None = None,
        activity: Activity | None = None,
        *,
        replaceable: bool = False,
    ) -> Executor:
        """An executor of all ranks together, which are always replaceable."""
        return Leader(self, model, reuse, activity)


def other_ranks(place: Place | None) -> NoRanks:
    """The ranks beside this one. Raises RanksError if they do not come."""
    return NoRanks() if place is None else Followers(place)


class Leader(Executor):
    """The executor of rank 0: what it does, all ranks do.

    An error that another executor contains ends the process: nothing says how far the others got.
    """

    def __init__(
        self,
        followers: Followers,
        model: Model,
        reuse: Reusing | None = None,
        activity: Activity | None = None,
    ):
        super().__init__(model, reuse, activity, replaceable=True)
        self._followers = followers
        self._came: list[GenerateRequest] = []
        self._before = 0
        followers.send(Begin(self.reuse.limit))

    def add(self, row: Row) -> RowFailed | None:
        """See `Executor`. Sessions are refused."""
        if row.request.session is not None:
            return RowFailed(row.id, "session_error", NO_SESSIONS)
        if (failed := super().add(row)) is None:
            self._came.append(for_followers(row.request))
        return failed

    def run(self, plan: Plan) -> Result:
        """See `Executor`."""
        came, self._came = self._came, []
        self._followers.now = time.monotonic()
        self._followers.send(Turn(plan, self._followers.now, self._before, came))
        result = super().run(plan)
        self._before = digest(result)
        return result

    def set_memory_limit(self, limit: int, prefix_cache: float) -> None:
        """See `Executor`. limit: of each rank."""
        self._followers.send(Limit(limit, prefix_cache))
        super().set_memory_limit(limit, prefix_cache)


def for_followers(request: GenerateRequest) -> GenerateRequest:
    """A request without what only rank 0 needs, which draws its tokens."""
    return msgspec.structs.replace(
        request,
        sampling=SamplingParams(temperature=0.0),
        min_tokens=0,
        sampler=None,
        processors=[],
        grammar=None,
        reasoning=None,
        prediction=[],
    )
