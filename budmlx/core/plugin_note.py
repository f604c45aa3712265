"""A note of which plugin the core's thread is in, for the parent of a core that never returns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class Note:
    """Names the plugin that is being called in a file, where it outlives this process.

    descriptor: of the file; None, as in a thread of the parent's own, keeps no note. A plugin
    that waits for the device is named for what the device does meanwhile.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None

    @contextlib.contextmanager
    def calling(self, plugin: str) -> Iterator[None]:
        """Call a plugin inside."""
        self._write(plugin)
        try:
            yield
        finally:
            self._write("")

    def _write(self, plugin: str) -> None:
        if self.descriptor is not None:
            # A plain write, since it fails where a write to mapped memory would end the process.
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, plugin.encode() + b"\0", 0)


NOTE = Note()
"""The note of this process."""
