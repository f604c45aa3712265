"""A command that fails, loaded like any other."""

from __future__ import annotations

from typing import Any

from budmlx.cli.flags import with_options
from budmlx.errors import ModelLoadError


@with_options([])
def fail(kind: str, **options: Any) -> None:
    """Fail."""
    if kind == "own":
        raise ModelLoadError("The model is too large. Choose a smaller one.")
    raise ValueError("odd")
