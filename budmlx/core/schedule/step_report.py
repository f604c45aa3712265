"""Step report: tokens, failures and starts of a scheduler step, collected for the engine."""

from __future__ import annotations

from collections.abc import Mapping

from budmlx.core.batch.plan import Result
from budmlx.core.row import Row
from budmlx.protocol import MemoryUse, RowErrorCode, RowFailed, StepFrame, Token, Vector
from budmlx.protocol.counts import DraftCounts, Source, SourceCounts, plus

FAILED = "The model failed on this request. Other requests are not affected."


class StepReport:
    """The draft of the next frame."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self._failed: list[RowFailed] = []
        self._started: list[int] = []
        self._vectors: list[Vector] = []
        self._left: dict[int, int] = {}  # tokens to prefill, by row
        self._told: dict[int, int] = {}  # the same in the last frame
        self._resumed = 0
        self._drafts: DraftCounts | None = None

    @property
    def urgent(self) -> bool:
        """Whether a failure waits to be sent."""
        return bool(self._failed)

    @property
    def begins(self) -> bool:
        """Whether a row has left the queue since the last frame."""
        return bool(self._started)

    def add(self, result: Result) -> None:
        """Add what a result says of rows and texts."""
        self._tokens += result.tokens
        self._vectors += result.vectors
        for step in result.passes:
            self._add_drafts(DraftCounts(1, step.sources))
        self._failed += result.failed
        self._left = {row: prompt.remaining for prompt in result.prompts for row in prompt.rows}

    def parked(self, drafts: Mapping[Source, int]) -> None:
        """Add drafts that rows had and the step leaves, by source."""
        if drafts:
            counts = {source: SourceCounts(parked=count) for source, count in drafts.items()}
            self._add_drafts(DraftCounts(0, counts))

    def _add_drafts(self, counts: DraftCounts) -> None:
        self._drafts = plus(self._drafts or DraftCounts(), counts)

    def fail(self, row_id: int, code: RowErrorCode, message: str, param: str | None = None) -> None:
        """Record that a row ends without a further token."""
        self.failed(RowFailed(row_id, code, message, param))

    def failed(self, row: RowFailed) -> None:
        """Record how a row ended that will have no further token."""
        self._failed.append(row)

    def raised(self, row_id: int) -> None:
        """Record that a row ends because the model raised an error while it ran alone."""
        self.fail(row_id, "request_failed", FAILED)

    def too_long(self, row_id: int, tokens: int, longest: int) -> None:
        """Record that a row can never fit into memory, which holds `longest` tokens of one row."""
        message = (
            f"The prompt has {tokens} tokens, but memory holds only {longest} of "
            "one request, together with the completion. Shorten it, or raise the memory limit."
        )
        self.failed(RowFailed(row_id, "context_length_exceeded", message, limit=longest))

    def bad_grammar(self, row: Row, problem: str) -> None:
        """Record that a row cannot begin, since its grammar cannot be used."""
        grammar = row.request.grammar
        assert grammar is not None
        message = f"{grammar.param} cannot be used: {problem}."
        self.fail(row.id, "invalid_grammar", message, grammar.param)

    def start(self, row: Row) -> None:
        """Record that a row left the queue; the engine hears of the first time."""
        if row.started:
            self._resumed += 1
        else:
            row.started = True
            self._started.append(row.id)

    def began(self, request_id: int) -> None:
        """Record that a request for vectors left the queue."""
        self._started.append(request_id)

    def frame(self, *, waiting: int, running: int, memory: MemoryUse) -> StepFrame:
        """The frame; the next draft is empty."""
        frame = StepFrame(
            tokens=self._tokens,
            failed=self._failed,
            started=self._started,
            vectors=self._vectors,
            prefilling=sorted(self._left.items() - self._told.items()),
            waiting=waiting,
            running=running,
            memory=memory,
            resumed=self._resumed,
            drafts=self._drafts,
        )
        self._tokens, self._failed, self._started, self._vectors = [], [], [], []
        self._told = self._left
        self._resumed, self._drafts = 0, None
        return frame
