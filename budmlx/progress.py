"""Progress of what takes long, as a call for each part that is done. Every ring may import it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

Progress = Callable[[int, int], object]
"""Called with how much is done, and of how much."""

Notice = Callable[[str], object]
"""Called with words for what is being done now."""


class ProgressBar:
    """A `Progress` that draws a bar on stderr; a context manager."""

    def __init__(self, title: str):
        self._bar = progress.Progress(console=Console(stderr=True))
        self._task = self._bar.add_task(title, total=None)

    def __call__(self, done: int, total: int) -> None:
        """See `Progress`."""
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
