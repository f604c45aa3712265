"""Settings of all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that does other things, too.
settings.register_profile("budmlx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("budmlx")

# Where the tests run in the background of a shell, SIGINT is ignored, and under nohup SIGHUP is;
# so they would be in every program that the tests start. A handler ends with `exec`, so it gives
# those programs the default without making this process sensitive to a terminal that closes.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
