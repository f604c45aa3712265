"""Runs rows on a scheduler without threads, so that tests decide what happens when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from budmlx.core.batch.executor import WORTH_CLEARING, Executor
from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.reuse.interface import Reusing
from budmlx.core.schedule.prefill import PromptView
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.core.schedule.view import GroupView
from budmlx.protocol import CoreSettings, GenerateRequest, RowFailed, StepFrame
from budmlx.types import SamplingParams
from tests.models import tiny_model_dir


def load(path: object = None, **settings: object) -> Model:
    """A loaded tiny model."""
    directory = str(path or tiny_model_dir(scale=4.0))
    return load_model(CoreSettings(model_path=directory, model_name="tiny", **settings))


def request(row_id: int, prompt: Iterable[int], **changes: object) -> GenerateRequest:
    """A greedy row unless changed. changes: fields of the row, or of its sampling parameters."""
    own = changes.keys() & set(GenerateRequest.__struct_fields__)
    fields: dict[str, Any] = {"seed": 1, "max_tokens": 16, "stop_ids": []}
    params: dict[str, Any] = {"temperature": 0.0}
    for name, value in changes.items():
        (fields if name in own else params)[name] = value
    sampling = SamplingParams(**params)
    return GenerateRequest(id=row_id, prompt_ids=list(prompt), sampling=sampling, **fields)


class Driver:
    """Collects what a scheduler says of each row. scheduling: further arguments of that."""

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 64,
        prefill_chunk: int = 64,
        reuse: Reusing | None = None,
        worth_clearing: int = WORTH_CLEARING,
        **scheduling: Any,
    ):
        self.executor = Executor(model, reuse, worth_clearing=worth_clearing)
        self.scheduler = Scheduler(
            self.executor, max_rows=max_rows, prefill_chunk=prefill_chunk, **scheduling
        )
        self.tokens: dict[int, list[int]] = {}
        self.reasons: dict[int, str] = {}
        self.failed: dict[int, RowFailed] = {}
        self.frames: list[StepFrame] = []

    @property
    def prompts(self) -> list[PromptView]:
        return self.scheduler._view.prompts

    @property
    def groups(self) -> list[GroupView]:
        return self.scheduler._view.groups

    def submit(self, *requests: GenerateRequest) -> None:
        for item in requests:
            self.tokens[item.id] = []
            self.scheduler.submit(item)

    def turn(self) -> StepFrame:
        frame = self.scheduler.step()
        self.frames.append(frame)
        for token in frame.tokens:
            assert token.id not in self.reasons, "a row spoke after its end"
            self.tokens[token.id].append(token.token)
            if token.reason is not None:
                self.reasons[token.id] = token.reason
        for row in frame.failed:
            assert row.id not in self.reasons and row.id not in self.failed
            self.failed[row.id] = row
        return frame

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def run(self, limit: int = 20_000) -> None:
        """Turn until nothing is left to do."""
        for _ in range(limit):
            if not self.scheduler.busy:
                return
            self.turn()
        raise AssertionError("the scheduler never came to rest")
