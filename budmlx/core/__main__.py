"""The core as a process of its own: `python -m budmlx.core FD [NOTE_FD [LOG_FD]]`.

FD is a connected stream socket that carries the frames of `budmlx.protocol.channel`. The process
ends when the other end of the socket does. NOTE_FD is the file of `budmlx.protocol.note`. LOG_FD is
where the log goes; without it, as all that is written beside the log, to the standard error stream.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import os
import signal
import socket
import sys
import threading
import traceback
from functools import partial
from typing import TYPE_CHECKING

from budmlx import logs, stacks
from budmlx.backend import importing_mlx
from budmlx.core.activity import Activity
from budmlx.core.mlx_lm_alone import import_mlx_lm
from budmlx.core.plugin_calls import NOTE
from budmlx.errors import ModelLoadError
from budmlx.protocol import (
    PROTOCOL_VERSION,
    CoreSettings,
    FromCore,
    Hello,
    LoadFailed,
    SetLogLevel,
    ToCore,
)
from budmlx.protocol.channel import Channel, FrameError

if TYPE_CHECKING:
    from budmlx.core.loop import CoreLoop

_PARENT_CHECK_SECONDS = 1.0


def main() -> None:
    """Serve one parent, then end."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the parent decides.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    if sys.stderr is not None:
        faulthandler.enable()
    stacks.dump_on_signal()
    with contextlib.suppress(OSError):  # closed streams
        os.dup2(2, 1)  # what a library prints must not mix with the parent's own output
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a process that is killed loses nothing
    descriptor, *files = map(int, sys.argv[1:])
    for each in (descriptor, *files):
        os.set_inheritable(each, False)
    NOTE.descriptor, log_file = (*files, None, None)[:2]
    channel: Channel[ToCore] = Channel(socket.socket(fileno=descriptor), ToCore)
    hello = _greeting(channel)
    if hello is None:
        message = "The core speaks another protocol: budmlx was updated. Restart the server."
        channel.send(LoadFailed(message))
        return
    if hello.settings.log_level is not None:
        stream = None if log_file is None else os.fdopen(log_file, "w", encoding="utf-8")
        logs.set_up(hello.settings.log_level, hello.settings.log_format, stream)
    try:
        with importing_mlx():
            import_mlx_lm()
            module, program = _program(hello.settings)
            loop_class: type[CoreLoop] = getattr(importlib.import_module(module), program)
    except ModelLoadError as error:
        channel.send(LoadFailed(error.message))
        return
    emit = partial(_emit, channel)
    loop = loop_class(hello.settings, emit, Activity(NOTE), replaceable=True)
    threading.Thread(target=_receive, args=(channel, loop), daemon=True).start()
    status = 1
    try:
        loop.run()
        status = 0
    except Exception:
        traceback.print_exc()
    # The accelerator's memory goes with the process; tearing the interpreter down can hang.
    os._exit(status)


def _program(settings: CoreSettings) -> tuple[str, str]:
    """The module and the class of what this process is to do."""
    if settings.place is not None and settings.place.rank:
        return "budmlx.core.follower", "Follower"
    return "budmlx.core.loop", "CoreLoop"


def _greeting(channel: Channel[ToCore]) -> Hello | None:
    """The parent's first message; None if it is not one that we understand."""
    try:
        hello = channel.receive()
    except EOFError:
        os._exit(0)
    except FrameError:
        return None
    return hello if isinstance(hello, Hello) and hello.version == PROTOCOL_VERSION else None


def _emit(channel: Channel[ToCore], frame: FromCore) -> None:
    try:
        channel.send(frame)
    except OSError:
        os._exit(0)


def _receive(channel: Channel[ToCore], loop: CoreLoop) -> None:
    """Post what arrives; end the process at once when the parent is gone or sends garbage."""
    parent = os.getppid()
    try:
        # A fork of the parent may hold the socket open after the parent's death.
        while os.getppid() == parent:
            NOTE.pulse()
            message = channel.receive(_PARENT_CHECK_SECONDS)
            if isinstance(message, SetLogLevel):
                logs.set_level(message.level)
            elif message is not None:
                loop.post(message)
    except EOFError:
        pass
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
