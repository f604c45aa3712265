"""Values that cross rings: messages, requests, sampling parameters, events, replies.

Everything here is frozen and needs only the standard library, so that the server, the
engine, the core and plugins share one vocabulary. Imports nothing of budmlx but errors.
"""

from __future__ import annotations

from budmlx.types.defaults import BUILT_IN, DEFAULTED, SamplingDefault, default_value
from budmlx.types.events import (
    CacheExplanation,
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    MissReason,
    PrefixCacheStats,
    ReasoningDelta,
    TextDelta,
    Timing,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from budmlx.types.reply import Adapter, Choice, Completion, Estimate, ModelInfo
from budmlx.types.request import (
    Breakpoint,
    ImagePart,
    Message,
    Part,
    Priority,
    Request,
    ResponseFormat,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from budmlx.types.sampling import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_TTL,
    PARAMETERS,
    RANGES,
    CachePolicy,
    Param,
    PluginChoice,
    SamplingParams,
)

__all__ = [
    "BUILT_IN",
    "DEFAULTED",
    "MAX_BIAS",
    "MAX_BIASES",
    "MAX_TTL",
    "PARAMETERS",
    "RANGES",
    "Adapter",
    "Breakpoint",
    "CacheExplanation",
    "CachePolicy",
    "Choice",
    "ChoiceFinished",
    "Completion",
    "Estimate",
    "Event",
    "FinishReason",
    "Finished",
    "ImagePart",
    "Message",
    "MissReason",
    "ModelInfo",
    "Param",
    "Part",
    "PluginChoice",
    "PrefixCacheStats",
    "Priority",
    "ReasoningDelta",
    "Request",
    "ResponseFormat",
    "Role",
    "SamplingDefault",
    "SamplingParams",
    "TextDelta",
    "TextPart",
    "Timing",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Usage",
    "default_value",
]
