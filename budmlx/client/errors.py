"""Errors of the client."""

from __future__ import annotations

import openai


class BudAPIError(Exception):
    """A request failed.

    message: that of the server. status_code: of the response; None if there was none, or if
    it had begun as a stream. param, code: of the error body. request_id: for the server's log.
    """

    def __init__(self, error: openai.OpenAIError):
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        self.message: str = said or getattr(error, "message", None) or str(error)
        super().__init__(self.message)
        self.status_code: int | None = getattr(error, "status_code", None)
        self.param: str | None = getattr(error, "param", None)
        self.code: str | None = getattr(error, "code", None)
        self.request_id: str | None = getattr(error, "request_id", None)


class RateLimitError(BudAPIError):
    """Too many requests. retry_after: seconds to wait, if the server says so."""

    def __init__(self, error: openai.RateLimitError):
        super().__init__(error)
        given = error.response.headers.get("retry-after", "")
        self.retry_after: int | None = int(given) if given.isdecimal() else None


def translated(error: openai.OpenAIError) -> BudAPIError:
    """The client's own error for one of the package underneath."""
    if isinstance(error, openai.RateLimitError):
        return RateLimitError(error)
    return BudAPIError(error)
