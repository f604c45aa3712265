"""Rows of random tokens on a scheduler that stands alone."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from budmlx.core.batch.executor import Executor
from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.reuse.interface import Reusing
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol import CoreSettings, GenerateRequest
from budmlx.types import SamplingParams

SETTINGS = CoreSettings(model_path="", model_name="bench")


def prompts(rows: int, length: int, vocab: int) -> list[list[int]]:
    """Random token ids, the same in every process."""
    chance = random.Random(0)
    return [[chance.randrange(vocab) for _ in range(length)] for _ in range(rows)]


def load(path: Path) -> Model:
    """The model in a directory."""
    return load_model(msgspec.structs.replace(SETTINGS, model_path=str(path)))


def new_scheduler(model: Model, reuse: Reusing | None = None) -> Scheduler:
    """A scheduler with the settings that are the default."""
    executor = Executor(model, reuse)
    return Scheduler(
        executor, max_rows=SETTINGS.max_rows, prefill_chunk=executor.numbers.prefill_chunk
    )


def greedy(row_id: int, ids: list[int], max_tokens: int) -> GenerateRequest:
    """A row that takes the most likely tokens and never stops early."""
    return GenerateRequest(
        id=row_id,
        prompt_ids=ids,
        sampling=SamplingParams(temperature=0.0),
        seed=row_id,
        max_tokens=max_tokens,
        stop_ids=[],
    )
