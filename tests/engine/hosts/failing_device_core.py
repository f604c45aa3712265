"""A core whose device fails once, after some steps: run by `changed_core`.

The file that `BUDMLX_TEST_FAILED` names exists from then on.
"""

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from budmlx.core import __main__ as core
from budmlx.core.batch.group import Group
from budmlx.core.row import Row, RowFault

STEPS = 20

_dispatch = Group.dispatch
_steps = count(1)


def _dispatch_or_fail(group: Group, *arguments: int) -> Mapping[Row, RowFault]:
    failed = Path(os.environ["BUDMLX_TEST_FAILED"])
    if next(_steps) > STEPS and not failed.exists():
        failed.touch()
        raise RuntimeError(
            "[METAL] Command buffer execution failed: Insufficient Memory "
            "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
        )
    return _dispatch(group, *arguments)


def main() -> None:
    """Run it."""
    Group.dispatch = _dispatch_or_fail  # type: ignore[method-assign]
    core.main()
