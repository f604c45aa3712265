"""Faults of the device: which errors of MLX put everything that was submitted to it in doubt."""

from __future__ import annotations

import re

# What MLX's Metal back end says of work that failed on the device, or of events and queues that
# did, and of its limit of buffers, which everything that is kept has filled.
_METAL = r"""
    \[METAL\] | kIO\w*CommandBuffer\w*Error | \[Event::
    | \[metal::(CommandEncoder|Device)\]\ (Failed|Unable\ to\ c)
    | \[metal::malloc\]\ Resource\ limit
"""
# Its CUDA back end names the call that failed, as in `cudaGraphLaunch(exec, stream) failed: ...`.
_CUDA = r"""
    ^cu(da|blas|dnn|fft|solver)?[A-Z]\w*\s*(\(.*\))?\ failed | ^graph\w*[.(].*\ failed
"""
# What it says when another rank of the model, or the way to it, is lost.
_RANKS = r"^\[ring\] | ^\[jaccl\]"
_FAULT = re.compile(f"{_METAL} | {_CUDA} | {_RANKS}", re.VERBOSE | re.DOTALL)
# After this one, Metal refuses all further work of the process.
_LAST = "SubmissionsIgnored"


class DeviceLostError(Exception):
    """The device failed; a new process must continue."""


def is_device_fault(error: BaseException) -> bool:
    """Whether an error says that work failed on the device, whoever submitted it.

    MLX raises such an error once, at whatever uses the stream next, and then forgets it: whatever
    was in flight may have been computed or not. Errors that are raised before any work is
    submitted, such as `[malloc] Unable to allocate`, belong to the work at hand.
    """
    return isinstance(error, RuntimeError) and _FAULT.search(str(error)) is not None


def ends_the_process(error: BaseException) -> bool:
    """Whether a fault of the device is one after which this process cannot use it any more."""
    return _LAST in str(error)
