"""Messages between the engine and the core, the same for both hosts.

The thread host passes these objects through queues; the process host packs each one as a
length-prefixed msgpack frame (`channel`). One `StepFrame` carries everything that a step of the
scheduler produced, so that traffic does not grow with the batch. Imports nothing of budmlx but
errors and types.
"""

from __future__ import annotations

from budmlx.protocol.adapters import AdapterAnswer, AdapterSource, AddAdapter, RemoveAdapter
from budmlx.protocol.counts import CoreCounts, CoreReport, DiskCounts, RowDraft, draft_usage
from budmlx.protocol.embedding import EmbeddingSettings, EmbedRequest, PoolingMode, Vector
from budmlx.protocol.frames import (
    PROTOCOL_VERSION,
    AskPrefix,
    Cancel,
    CoreRequest,
    FromCore,
    Hello,
    Loaded,
    LoadFailed,
    MemoryLimitSet,
    PrefixAnswer,
    RowErrorCode,
    RowFailed,
    SetLogLevel,
    SetMemoryLimit,
    Shutdown,
    StepFrame,
    Submit,
    ToCore,
    Token,
    WarmingUp,
)
from budmlx.protocol.memory import MemoryBudget, MemoryUse
from budmlx.protocol.reasoning import ReasoningBudget, ReasoningMeter
from budmlx.protocol.rows import (
    GenerateRequest,
    Grammar,
    Image,
    PluginCall,
    SessionFile,
    Tensor,
    with_image_keys,
)
from budmlx.protocol.settings import (
    MOST_DRAFTED,
    MOST_PLACES,
    CoreSettings,
    DraftModelSettings,
    KVStoreSettings,
    Place,
    PluginTarget,
)
from budmlx.protocol.thresholds import LEAST_REUSED, LEAST_STRETCH

__all__ = [
    "LEAST_REUSED",
    "LEAST_STRETCH",
    "MOST_DRAFTED",
    "MOST_PLACES",
    "PROTOCOL_VERSION",
    "AdapterAnswer",
    "AdapterSource",
    "AddAdapter",
    "AskPrefix",
    "Cancel",
    "CoreCounts",
    "CoreReport",
    "CoreRequest",
    "CoreSettings",
    "DiskCounts",
    "DraftModelSettings",
    "EmbedRequest",
    "EmbeddingSettings",
    "FromCore",
    "GenerateRequest",
    "Grammar",
    "Hello",
    "Image",
    "KVStoreSettings",
    "LoadFailed",
    "Loaded",
    "MemoryBudget",
    "MemoryLimitSet",
    "MemoryUse",
    "Place",
    "PluginCall",
    "PluginTarget",
    "PoolingMode",
    "PrefixAnswer",
    "ReasoningBudget",
    "ReasoningMeter",
    "RemoveAdapter",
    "RowDraft",
    "RowErrorCode",
    "RowFailed",
    "SessionFile",
    "SetLogLevel",
    "SetMemoryLimit",
    "Shutdown",
    "StepFrame",
    "Submit",
    "Tensor",
    "ToCore",
    "Token",
    "Vector",
    "WarmingUp",
    "draft_usage",
    "with_image_keys",
]
