"""Settings of all tests."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from budmlx.core.device import use_device
from budmlx.logs import JsonLines, TextLines
from budmlx.open_files import raise_open_files_limit
from tests.amount import EXAMPLES, LONG_EXAMPLES
from tests.measured import measured, pytest_terminal_summary  # noqa: F401  # found here by pytest

use_device()
# Some tests have both ends of hundreds of connections in this process.
raise_open_files_limit()

# No test leaves a key or a store in the state directory of whoever runs it.
_state = tempfile.TemporaryDirectory(prefix="budmlx-tests-")
os.environ["XDG_STATE_HOME"] = _state.name

# How long an example takes says nothing on a machine that does other things, too.
for name, count in (("budmlx", EXAMPLES), ("long", LONG_EXAMPLES)):
    settings.register_profile(
        name, deadline=None, max_examples=count, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("budmlx")

# Where the tests run in the background of a shell, SIGINT is ignored, and under nohup SIGHUP is;
# so they would be in every program that the tests start. A handler ends with `exec`, so it gives
# those programs the default without making this process sensitive to a terminal that closes.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def the_log_stays_as_it_was() -> Iterator[None]:
    """A test may set it up, and commands do, in the process of the tests too."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, TextLines | JsonLines):
            root.removeHandler(handler)
    root.setLevel(level)
