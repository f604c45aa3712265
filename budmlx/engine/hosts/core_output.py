"""Core output: what a core writes beside its log becomes lines of the log, one of each line.

These are tracebacks before its log is set up, dumps of its stacks, and what libraries print.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from io import FileIO

log = logging.getLogger(__name__)

MOST_BYTES = 4096
"""Of a line; the rest of it is a further line."""
END_SECONDS = 1.0
FAULT = re.compile(
    rb"Fatal Python error|Traceback \(|terminate called|libc\+\+abi|.*: Assertion |Out of memory"
)
"""How a line begins that says why a process ends: it, and what follows, is an error."""


class CoreOutput:
    """A pipe for the standard streams of a process, and the thread that reads it to its end.

    writer: the end that the process writes to; `handed_over` closes it here.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self._reader, self.writer = FileIO(reader), FileIO(writer, "w")
        self._level = logging.WARNING
        self._thread = threading.Thread(target=self._read, name="budmlx-core-output", daemon=True)

    def handed_over(self) -> None:
        """Begin to read, when the process has its end or will never have it."""
        self.writer.close()
        self._thread.start()

    def finish(self) -> None:
        """Wait a moment for the last words of a process that is gone.

        A process that it started, and that lives, keeps the pipe open.
        """
        if self._thread is not threading.current_thread():
            self._thread.join(END_SECONDS)

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._reader.read(65536):
                # Bars of progress end their lines with a carriage return.
                *lines, rest = re.split(rb"[\r\n]", rest + data)
                if len(rest) >= MOST_BYTES:
                    lines, rest = [*lines, rest], b""
                self._tell(lines)
        finally:
            self._reader.close()
            self._tell([rest])

    def _tell(self, lines: list[bytes]) -> None:
        for line in lines:
            if FAULT.match(line):
                self._level = logging.ERROR
            for start in range(0, len(line), MOST_BYTES):
                part = line[start : start + MOST_BYTES]
                if text := part.decode("utf-8", "backslashreplace").rstrip():
                    log.log(self._level, "%s", text)
