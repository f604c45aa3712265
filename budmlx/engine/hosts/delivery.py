"""Delivery of frames to a sink that may fail: no row loses a token and goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from budmlx.engine.hosts.host import FrameSink
from budmlx.protocol import RowFailed, StepFrame

log = logging.getLogger(__name__)

UNDELIVERED = "The engine failed to deliver this reply; the server's log says more."


def deliver(sink: FrameSink, frame: StepFrame, cancel: Callable[[int], object]) -> None:
    """Hand a frame to the sink. If that fails, end each row that the frame tells of.

    cancel: drops a row, so that it gets no further message of the core's. The fault is ours; it
    must neither end the host's thread nor leave a hole in a reply.
    """
    try:
        sink(frame)
    except Exception:  # the boundary of the host's thread
        log.exception("A frame of the engine could not be delivered")
        ids = [token.id for token in frame.tokens] + [failed.id for failed in frame.failed]
        for row_id in dict.fromkeys(ids):
            cancel(row_id)
            _fail(sink, row_id)


def _fail(sink: FrameSink, row_id: int) -> None:
    # One frame for each row: what fails for one must not keep the others waiting for ever.
    try:
        sink(StepFrame(failed=[RowFailed(row_id, "request_failed", UNDELIVERED)]))
    except Exception:  # see above; nobody is left to be told
        log.exception("A row of the engine could not be ended")
