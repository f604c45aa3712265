"""A core that dies of prompts that hold a marked token: run instead of `budmlx.core`."""

import os

from budmlx.core.__main__ import main
from budmlx.core.loop import CoreLoop
from budmlx.protocol import Submit, ToCore

FATAL_TOKEN = 13

_post = CoreLoop.post


def _post_or_die(loop: CoreLoop, message: ToCore) -> None:
    if isinstance(message, Submit) and FATAL_TOKEN in message.request.prompt_ids:
        os.abort()
    _post(loop, message)


if __name__ == "__main__":
    CoreLoop.post = _post_or_die  # type: ignore[assignment, method-assign]
    main()
