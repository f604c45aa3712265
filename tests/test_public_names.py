"""The names that programs and plugins import stay where they are."""

from __future__ import annotations

import importlib

import pytest

# What is defined or exported on purpose, and what the documentation, plugins and examples import.
PUBLIC: dict[str, str] = {
    "budmlx": """
        BudmlxError Completion Engine Event Finished ImagePart Message SamplingParams
        TextDelta TextPart Usage __version__ hookimpl
    """,
    "budmlx.types": """
        CacheExplanation CachePolicy Choice ChoiceFinished Completion Event FinishReason
        Finished ImagePart MAX_BIAS MAX_BIASES Message MissReason ModelInfo Part
        PluginChoice PrefixCacheStats RANGES ReasoningDelta Request ResponseFormat Role
        SamplingParams TextDelta TextPart Timing TokenLogprob Tool ToolCall
        ToolCallDelta ToolChoice Usage
    """,
    "budmlx.errors": """
        BudmlxError CancelledError ConfigError ContextLengthError EngineClosedError
        EngineUnavailableError InvalidRequestError ModelLoadError ModelNotFoundError
        OverloadedError PluginError RequestFailedError
    """,
    "budmlx.config": """
        Config ENV_PREFIX Names Options Secrets SizeOrShare cache_directory explain
        kv_directory size_or_share
    """,
    "budmlx.client": """
        AsyncBudClient AsyncChatStream BudAPIError BudClient ChatCompletion
        ChatCompletionChunk ChatStream RateLimitError
    """,
    "budmlx.plugins.hookspecs": """
        RINGS Ring add_commands add_logits_processors add_message_transforms
        add_model_loaders add_output_filters add_routes add_samplers on_request_finished
        provide_reasoning_parser provide_response_cache provide_tool_parser
        provide_vision_encoder provide_vision_preprocessor
    """,
    "budmlx.plugins.specs": """
        Array CacheStats CommandSpec EndText LogitsProcessor LogitsProcessorSpec
        MessageTransform OutputFilter OutputFilterFactory RequestRecord ResponseCache
        Route RowContext Sampler SamplerSpec State check_target
    """,
    "budmlx.plugins.parsing": """
        Call CallArguments CallBegun CallGrammar CallSyntax Content ModelTraits
        OutputParser Piece ReasoningParserSpec Thought Tool ToolParserSpec
    """,
    "budmlx.plugins.vision": """
        Detail ModelFiles ModelLoaderSpec Pixels PreparedImage VisionEncoder
        VisionEncoderSpec VisionPreprocessorSpec
    """,
    "budmlx.plugins.discovery": """
        import_target
    """,
    "budmlx.testing": """
        OpenEngine check_logits_processor check_message_transform check_output_filter
        check_reasoning_parser check_response_cache check_sampler check_tool_parser
        check_vision_encoder check_vision_preprocessor open_engine tiny_model
    """,
    "budmlx.testing.parsers": """
        Found check_reasoning_parser check_tool_parser require
    """,
    "budmlx.testing.vision": """
        DETAILS SIZES check_vision_encoder check_vision_preprocessor
    """,
}

NAMES = [(module, name) for module, names in PUBLIC.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_name_is_still_there(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name, None) is not None
