"""Types of hook results, by which they are checked."""

from __future__ import annotations

from collections.abc import Callable

from budmlx.plugins.parsing import ReasoningParserSpec, ToolParserSpec
from budmlx.plugins.specs import CommandSpec, LogitsProcessorSpec, Route, SamplerSpec
from budmlx.plugins.vision import ModelLoaderSpec, VisionPreprocessorSpec

ADDED: dict[str, type] = {
    "add_samplers": SamplerSpec,
    "add_logits_processors": LogitsProcessorSpec,
    "add_model_loaders": ModelLoaderSpec,
    "add_message_transforms": Callable,  # type: ignore[dict-item]
    "add_output_filters": Callable,  # type: ignore[dict-item]
    "add_routes": Route,
    "add_commands": CommandSpec,
}
"""Hooks whose results are collected when a plugin is loaded, with the type of each item."""

CHOSEN = {
    "provide_tool_parser": ToolParserSpec,
    "provide_reasoning_parser": ReasoningParserSpec,
    "provide_vision_preprocessor": VisionPreprocessorSpec,
}
"""Hooks whose plugin is chosen by a setting, with the type of their result."""
