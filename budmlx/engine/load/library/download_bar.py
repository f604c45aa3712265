"""A bar on stderr for the progress of a pull."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from budmlx.engine.load.library.pull import PullProgress, Report


@contextmanager
def download_bar(name: str) -> Iterator[Report]:
    """What shows the progress of pulling `name`, as long as the block runs.

    There is no bar where nothing needs to be fetched. Where stderr is no terminal a line is written
    every ten seconds.
    """
    bars: list[Any] = []

    def show(progress: PullProgress) -> None:
        if progress.stage != "downloading":
            return
        if not bars:
            bars.append(_bar(name, progress))
        bars[0].update(progress.done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _bar(name: str, progress: PullProgress) -> Any:
    return tqdm(
        desc=f"Fetching {name}",
        total=progress.total,
        initial=progress.done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
    )
