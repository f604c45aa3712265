"""Run language models on a Mac: a chat-completions server and a Python engine on MLX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pluggy

from budmlx.errors import BudmlxError
from budmlx.types import (
    Completion,
    Event,
    Finished,
    ImagePart,
    Message,
    SamplingParams,
    TextDelta,
    TextPart,
    Usage,
)

if TYPE_CHECKING:
    from budmlx.engine.engine import Engine
    from budmlx.engine.models.models import Models

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("budmlx")
"""Marks a function of a plugin as an implementation of the hook that has its name."""

__all__ = [
    "BudmlxError",
    "Completion",
    "Engine",
    "Event",
    "Finished",
    "ImagePart",
    "Message",
    "Models",
    "SamplingParams",
    "TextDelta",
    "TextPart",
    "Usage",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    # The engine needs transformers, which takes a second to import; --help must not wait.
    if name == "Engine":
        return importlib.import_module("budmlx.engine.engine").Engine
    if name == "Models":
        return importlib.import_module("budmlx.engine.models.models").Models
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
