"""Starting: a core process, or a group of them, until its model is in memory."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.engine.hosts.child import Child, Watchdog
from budmlx.engine.hosts.machines import MachinePool
from budmlx.engine.hosts.ranks import RankGroup
from budmlx.engine.hosts.warm_up_news import WarmUpNews
from budmlx.errors import ModelLoadError
from budmlx.protocol import CoreSettings, FromCore, Loaded, LoadFailed, WarmingUp
from budmlx.protocol.channel import FrameError


def spawn(
    command: Sequence[str],
    settings: CoreSettings,
    watchdog_seconds: float,
    pool: MachinePool | None = None,
) -> Child | RankGroup:
    """Start a core; see `RankGroup` for the arguments. Raises ModelLoadError."""
    try:
        if settings.ranks == 1:
            return Child(command, settings)
        return RankGroup(command, settings, watchdog_seconds, pool)
    except OSError as error:
        raise ModelLoadError(f"The engine process could not be started: {error}.") from error


def await_loaded(child: Child | RankGroup, patience: float, news: WarmUpNews) -> Loaded:
    """Wait until a core has loaded; it is gone if that fails.

    patience: seconds without a sign of life after which it is killed. news: what it does meanwhile.

    Raises:
        ModelLoadError: the core ended, hung, or cannot load.
    """
    news.end()
    watchdog = Watchdog(patience)
    message: FromCore | None = None
    try:
        while message is None or isinstance(message, WarmingUp):
            message = child.receive(watchdog.nap)
            if isinstance(message, WarmingUp):
                watchdog.heard()
                news.tell(message)
            elif message is None and watchdog.napped(child.note()):
                break
    except (EOFError, FrameError) as error:
        doing = "it loaded the model"
        if news.words:
            doing = f"it was {news.words} (--warmup off does without that)"
        raise ModelLoadError(
            f"The engine process ended while {doing}: {child.reap().how}. "
            "Its own words, if any, are in the log."
        ) from error
    except BaseException:
        child.reap()
        raise
    if isinstance(message, Loaded):
        news.end()
        return message
    if message is None:
        how = child.end_hung(watchdog.silence).how
        raise ModelLoadError(f"The engine process did not load the model: {how}.")
    child.reap()
    if isinstance(message, LoadFailed):
        raise message.error()
    raise ModelLoadError("The engine process did not load.")
