"""What a scheduler turn has to say, collected until its frame is sent."""

from __future__ import annotations

import mlx.core as mx

from budmlx.core.row import Row
from budmlx.core.sample.sampling import Outcome
from budmlx.protocol import GenerateRequest, RowErrorCode, RowFailed, StepFrame, Token

MESSAGES: dict[RowErrorCode, str] = {
    "request_failed": "The model failed on this request. Other requests are not affected.",
    "non_finite_logits": "No token can be drawn: the logits are not finite, or every token is "
    "banned. Check logit_bias.",
}


class Report:
    """The draft of the next frame."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self._failed: list[RowFailed] = []
        self._started: list[int] = []

    @property
    def urgent(self) -> bool:
        """Whether a failure waits to be sent."""
        return bool(self._failed)

    @property
    def begins(self) -> bool:
        """Whether a row has left the queue since the last frame."""
        return bool(self._started)

    def token(self, row: Row, drawn: Outcome) -> bool:
        """Note a row's new token; True if it is the row's last."""
        reason = row.take(drawn.token)
        told = (drawn.logprob, drawn.top, row.cached, row.from_disk)
        self._tokens.append(Token(row.request.id, drawn.token, reason, *told))
        row.cached = row.from_disk = 0
        return reason is not None

    def fail(
        self,
        row_id: int,
        code: RowErrorCode,
        message: str | None = None,
        param: str | None = None,
    ) -> None:
        """Note that a row ends without a further token."""
        self._failed.append(RowFailed(row_id, code, message or MESSAGES[code], param))

    def too_long(self, request: GenerateRequest, longest: int) -> None:
        """Note that a row can never fit into memory, which holds `longest` tokens of one row."""
        message = (
            f"The prompt has {len(request.prompt_ids)} tokens, but memory holds only {longest} of "
            "one request, together with the completion. Shorten it, or raise the memory limit."
        )
        self.fail(request.id, "context_length_exceeded", message)

    def bad_grammar(self, row: Row, problem: str) -> None:
        """Note that a row cannot begin, since its grammar cannot be used."""
        grammar = row.request.grammar
        assert grammar is not None
        message = f"{grammar.param} cannot be used: {problem}."
        self.fail(row.request.id, "invalid_grammar", message, grammar.param)

    def nothing_drawn(self, row: Row) -> None:
        """Note that a row ends because there was no token to draw."""
        if (sampler := row.request.sampler) is None:
            self.fail(row.request.id, "non_finite_logits")
        else:
            what = f"{sampler.name} drew no token of the vocabulary"
            message = f"The plugin {sampler.plugin} failed: {what}."
            self.fail(row.request.id, "plugin_error", message)

    def start(self, row: Row) -> None:
        """Note that a row left the queue, the first time."""
        if not row.started:
            row.started = True
            self._started.append(row.request.id)

    def frame(self, *, waiting: int, running: int) -> StepFrame:
        """The frame; the next draft is empty."""
        frame = StepFrame(
            tokens=self._tokens,
            failed=self._failed,
            started=self._started,
            waiting=waiting,
            running=running,
            memory=mx.get_active_memory(),
        )
        self._tokens, self._failed, self._started = [], [], []
        return frame
