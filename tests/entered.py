"""Which functions of the package run, on all threads of a process.

As a program it is a core that can be asked: `python -m tests.entered ADDRESS FD [NOTE_FD]`.
"""

from __future__ import annotations

import sys
import threading
from multiprocessing.connection import Client
from pathlib import Path
from types import CodeType, FrameType

import budmlx
from budmlx.core.__main__ import main as run_core

PACKAGE = str(Path(budmlx.__file__).parent)

Function = tuple[str, int]
"""A file, and the line in it where the function begins."""


class Entered:
    """Notes the functions that run while it is asked to."""

    def __init__(self) -> None:
        self._codes: set[CodeType] | None = None

    def install(self) -> None:
        """Watch this thread, and all that start from now on."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def begin(self) -> None:
        """Forget everything, and note what runs from now on."""
        self._codes = set()

    def end(self) -> set[Function]:
        """Note nothing any more; what ran since `begin`."""
        codes, self._codes = self._codes or set(), None
        return {(code.co_filename, code.co_firstlineno) for code in codes}

    def _profile(self, frame: FrameType, event: str, _arg: object) -> None:
        if self._codes is None or event != "call":
            return
        # With its callers: a loop that was entered before runs as well.
        caller: FrameType | None = frame
        while caller is not None and caller.f_code not in self._codes:
            if caller.f_code.co_filename.startswith(PACKAGE):
                self._codes.add(caller.f_code)
            caller = caller.f_back


def main() -> None:
    """Run a core; at the address, `begin` and `end` are answered."""
    entered = Entered()
    connection = Client(sys.argv.pop(1), "AF_UNIX")

    def answer() -> None:
        while True:
            connection.send(getattr(entered, connection.recv())())

    threading.Thread(target=answer, daemon=True).start()
    entered.install()
    run_core()


if __name__ == "__main__":
    main()
