"""Batch methods: an engine answers the requests of a file."""

from __future__ import annotations

import asyncio
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from budmlx.progress import Progress


class BatchCounts(NamedTuple):
    """Numbers of requests: all, those that were answered, and those that failed."""

    total: int
    completed: int
    failed: int


class BatchMethods:
    """What an engine does with files."""

    def batch(
        self, file: str | Path, output: str | Path, *, progress: bool | Progress = True
    ) -> BatchCounts:
        """Answer the requests of a file, one in each line, as OpenAI's batches have them.

        output: gets a reply in each line. Requests that have one there are done, so that the same
        call goes on after a break. The engine answers to every model name in the file.
        progress: True shows a bar on stderr; a function is called with the number of requests
        that are done, and with that of all.

        Raises:
            InvalidRequestError: a line is wrong, and none is answered.
            BudmlxError: a file cannot be read or written.
        """
        # The endpoints are the server's, which imports this module.
        offline = importlib.import_module("budmlx.server.offline")
        with tqdm(desc="Answering", disable=progress is not True) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if callable(progress):
                    progress(done, total)

            work = offline.answer_file(self, Path(file), Path(output), tell)
            # The caller may have an event loop of its own, which is not to be used here.
            with ThreadPoolExecutor(1) as thread:
                counts: BatchCounts = thread.submit(asyncio.run, work).result()
        return counts
