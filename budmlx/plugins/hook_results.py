"""What the answers of hooks must be."""

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
"""The hooks whose answers are collected when a plugin is loaded, and what they consist of."""

CHOSEN = {
    "provide_tool_parser": ToolParserSpec,
    "provide_reasoning_parser": ReasoningParserSpec,
    "provide_vision_preprocessor": VisionPreprocessorSpec,
}
"""The hooks whose plugin a setting chooses, and what they provide."""
