"""Text between a model and a terminal."""

from __future__ import annotations

import sys

from budmlx.errors import InvalidRequestError

# A model must not move the cursor, rename the window or write to the clipboard.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]


def show(text: str) -> None:
    """Write model text to stdout at once; on a terminal without its control characters."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def checked(text: str) -> str:
    """`text`, if it came in as UTF-8. Raises InvalidRequestError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("The prompt is not UTF-8 text.") from error
    return text
