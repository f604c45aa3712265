"""A core that dies of prompts that hold a marked token: run by `changed_core`."""

import os

from budmlx.core import __main__ as core
from budmlx.core.loop import CoreLoop
from budmlx.protocol import Submit, ToCore

FATAL_TOKEN = 13

_post = CoreLoop.post


def _post_or_die(loop: CoreLoop, message: ToCore) -> None:
    if isinstance(message, Submit) and FATAL_TOKEN in message.request.prompt_ids:
        os.abort()
    _post(loop, message)


def main() -> None:
    """Run it."""
    CoreLoop.post = _post_or_die  # type: ignore[assignment, method-assign]
    core.main()
