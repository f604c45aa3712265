"""Frames: the messages between the engine and the core."""

from __future__ import annotations

from typing import Literal, Self

import msgspec

from budmlx.errors import ModelLoadError, RanksError
from budmlx.logs import Level
from budmlx.protocol.adapters import AdapterAnswer, AddAdapter, RemoveAdapter
from budmlx.protocol.counts import CoreReport, DraftCounts, RowDraft
from budmlx.protocol.embedding import EmbedRequest, Vector
from budmlx.protocol.memory import MemoryBudget, MemoryUse
from budmlx.protocol.rows import GenerateRequest
from budmlx.protocol.settings import CoreSettings
from budmlx.types import ModelInfo

PROTOCOL_VERSION = 6

CoreRequest = GenerateRequest | EmbedRequest
"""What a core is asked to compute."""

# Engine to core.


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message to a core process."""

    version: int
    settings: CoreSettings


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Queue a row, or texts."""

    request: CoreRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Drop a row, or texts, wherever it is; unknown ids are ignored. It gets no further message."""

    id: int


class SetMemoryLimit(msgspec.Struct, frozen=True, tag="set_memory_limit"):
    """Keep within other bounds from now on. limit: bytes, as in `MemoryBudget`."""

    limit: int


class SetLogLevel(msgspec.Struct, frozen=True, tag="set_log_level"):
    """Log more or less from now on, in a process of the core's own."""

    level: Level


class AskPrefix(msgspec.Struct, frozen=True, tag="ask_prefix"):
    """Tell how much of a prompt is stored. keys: its ids, with those of images in their places."""

    id: int
    namespace: str
    keys: list[int]


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Drop everything and end."""


ToCore = (
    Hello
    | Submit
    | Cancel
    | SetLogLevel
    | SetMemoryLimit
    | AskPrefix
    | AddAdapter
    | RemoveAdapter
    | Shutdown
)

# Core to engine.


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is in memory and requests are taken. adapters: those of the settings, in order."""

    info: ModelInfo
    budget: MemoryBudget = MemoryBudget()
    adapters: list[AdapterAnswer] = []


class WarmingUp(msgspec.Struct, frozen=True, tag="warming_up"):
    """The model is in memory, and runs what requests will run, so that its kernels get built.

    done: how many of the `total` parts are. seconds: an estimate for the others, if there is one.
    """

    done: int
    total: int
    seconds: float | None = None


class MemoryLimitSet(msgspec.Struct, frozen=True, tag="memory_limit_set"):
    """What is in use is within the bounds that were set last."""

    budget: MemoryBudget


class PrefixAnswer(msgspec.Struct, frozen=True, tag="prefix_answer"):
    """How many tokens are in memory from which a prompt could go on."""

    id: int
    tokens: int


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be used; the core ends.

    ranks: the code of a `RanksError`; empty if it is none.
    """

    message: str
    ranks: str = ""

    @classmethod
    def of(cls, error: ModelLoadError) -> Self:
        """What tells of an error."""
        return cls(error.message, (error.code or "") if isinstance(error, RanksError) else "")

    def error(self) -> ModelLoadError:
        """The error that it tells of."""
        if self.ranks:
            return RanksError(self.message, code=self.ranks)
        return ModelLoadError(self.message)


RowErrorCode = Literal[
    "context_length_exceeded",
    "request_failed",
    "engine_unavailable",
    "non_finite_logits",
    "plugin_error",
    "invalid_grammar",
    "grammar_error",
    "session_error",
    "model_not_found",
]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One new token of a row. `reason` is set on the row's last token.

    logprob: of the model's own distribution, before any sampling parameter.
    top: the most likely ids and their logprobs, best first.
    cached: with the first token, how many tokens of the prompt were not computed.
    from_disk: how many of them were read from disk for this row.
    written: with the first token, how many of the prompt were computed and stored for reuse.
    draft: with the first token of a step with drafts.
    """

    id: int
    token: int
    reason: Literal["stop", "length"] | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] = []
    cached: int = 0
    from_disk: int = 0
    written: int = 0
    draft: RowDraft | None = None


class RowFailed(msgspec.Struct, frozen=True, array_like=True):
    """A row that ended without a further token. param: the parameter at fault, if there is one.

    limit: tokens that a row may have, where its prompt has more.
    """

    id: int
    code: RowErrorCode
    message: str
    param: str | None = None
    limit: int = 0


class StepFrame(msgspec.Struct, frozen=True, tag="step", omit_defaults=True):
    """The results of one step of the scheduler. An empty frame is the heartbeat of an idle core.

    started: rows whose prefill began (end of their queue time), and requests for vectors.
    prefilling: rows whose prefill takes several steps, each with the tokens of its prompt that are
    left to compute, if they became fewer. vectors: those of texts. waiting, running: numbers of
    rows. memory: what MLX has. resumed: rows that began anew. drafts: what was drafted.
    report: when nothing is left to do, and every second.
    """

    tokens: list[Token] = []
    failed: list[RowFailed] = []
    started: list[int] = []
    vectors: list[Vector] = []
    prefilling: list[tuple[int, int]] = []
    waiting: int = 0
    running: int = 0
    memory: MemoryUse = MemoryUse()
    resumed: int = 0
    drafts: DraftCounts | None = None
    report: CoreReport | None = None


FromCore = (
    WarmingUp | Loaded | LoadFailed | MemoryLimitSet | PrefixAnswer | AdapterAnswer | StepFrame
)
