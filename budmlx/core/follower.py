"""Followers: the ranks that carry out what rank 0 decides."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from budmlx.core.activity import Activity
from budmlx.core.batch.executor import Executor
from budmlx.core.batch.prefill import stored
from budmlx.core.device import use_device
from budmlx.core.kernel_cache import keep_kernels
from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.model.ranks import Ranks
from budmlx.core.ranks.facts import facts_of
from budmlx.core.ranks.joining import join
from budmlx.core.ranks.messages import Begin, Limit, Look, Ready, ToFollower, Turn, digest
from budmlx.core.reuse.blocks import open_reuse
from budmlx.core.row import Row
from budmlx.errors import ModelLoadError
from budmlx.protocol import CoreSettings, FromCore, LoadFailed, ToCore
from budmlx.protocol.channel import Channel


class RanksDisagreeError(Exception):
    """This rank is not where rank 0 is; none of them can go on."""


class Follower:
    """A rank that loads its part of a model and runs rank 0's plans until that is gone.

    emit: receives what the parent is to know. activity: what it does now.
    While there is nothing to do it waits for a message, which costs nothing: to wait for another
    rank in MLX would keep a processor busy.
    """

    def __init__(
        self,
        settings: CoreSettings,
        emit: Callable[[FromCore], None],
        activity: Activity | None = None,
        *,
        replaceable: bool = True,
    ):
        self._settings = settings
        self._emit = emit
        self._activity = activity or Activity()
        self._now = 0.0
        self._before = 0
        self._executor: Executor | None = None

    def post(self, message: ToCore) -> None:
        """Ignore what the parent says: rank 0 hears it, too."""

    def run(self) -> None:
        """Block until rank 0 is gone. MLX is used on the calling thread only.

        Raises:
            DeviceLostError: the device failed, or another rank; end the process.
            RanksDisagreeError: likewise.
        """
        try:
            self._serve()
        finally:
            mx.clear_streams()

    def _serve(self) -> None:
        keep_kernels()
        place = self._settings.place
        assert place is not None
        try:
            use_device()
            channel = join(place)
            ranks = Ranks.connect(place)
            model = load_model(self._settings, ranks=ranks)
        except ModelLoadError as error:
            self._emit(LoadFailed.of(error))
            return
        try:
            channel.send(Ready(facts_of(model, self._settings), model.memory.limit))
            self._follow(channel, model)
        except (EOFError, ConnectionError):
            return

    def _follow(self, channel: Channel[ToFollower], model: Model) -> None:
        """Do what rank 0 says, in its order."""
        while True:
            message = channel.receive(None)
            if isinstance(message, Begin):
                self._begin(model, message.reuse)
                continue
            executor = self._executor
            assert executor is not None
            if isinstance(message, Turn):
                self._turn(executor, message)
            elif isinstance(message, Look):
                stored(executor.reuse, message.namespace, message.keys)
            elif isinstance(message, Limit):
                executor.set_memory_limit(message.limit, message.prefix_cache)

    def _begin(self, model: Model, limit: int) -> None:
        if self._executor is not None:
            # What is stored there knows each other, so that dropping it frees nothing at once.
            self._executor.reuse.resize(0)
        reuse = open_reuse(model, limit, clock=lambda: self._now)
        self._executor = Executor(model, reuse, self._activity, replaceable=True)
        self._before = 0

    def _turn(self, executor: Executor, turn: Turn) -> None:
        if turn.before != self._before:
            raise RanksDisagreeError("this rank has other prompts and groups than rank 0")
        self._now = turn.now
        for request in turn.rows:
            if (failed := executor.add(Row.of(request))) is not None:
                raise RanksDisagreeError(f"a row that rank 0 has cannot run here: {failed.message}")
        self._before = digest(executor.run(turn.plan))
