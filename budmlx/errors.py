"""Exceptions that budmlx raises on purpose, with their codes.

BudmlxError
├── ConfigError                     the configuration is wrong; nothing was started
├── ModelLoadError                  a model directory or repository cannot be used
│   └── RanksError                  the ranks of a model cannot come together
├── InvalidRequestError             the request is wrong; `param` names where
│   └── ContextLengthError          the prompt is longer than the context, or than memory holds
├── ModelNotFoundError              no served model has that name
├── EngineClosedError               used after `close()`
├── OverloadedError                 the queue is full; retry later
├── QuotaError                      the API key has too few tokens left for this request
├── EngineUnavailableError          the core is restarting, or its breaker is open
├── RequestFailedError              this request failed inside the engine; others go on
│   └── PluginError                 a plugin failed it
└── CancelledError                  the request was cancelled by `cancel()`
"""

from __future__ import annotations


class BudmlxError(Exception):
    """Base of all errors raised on purpose.

    message: one sentence for the user, saying what to do next where that helps.
    param: path of the offending parameter, such as `messages[1].role`.
    code: stable machine-readable word.
    """

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code


class ConfigError(BudmlxError):
    """The configuration is wrong; nothing was started."""

    code = "config_error"


class ModelLoadError(BudmlxError):
    """A model directory or repository cannot be used."""

    code = "model_load_error"


class RanksError(ModelLoadError):
    """The ranks of a model cannot come together. The message has nothing that clients may not read.

    The code is `address_taken` where other addresses would help.
    """


class InvalidRequestError(BudmlxError):
    """The request is wrong; `param` names where."""


class ContextLengthError(InvalidRequestError):
    """The prompt is longer than the model's context, or than memory can ever hold.

    tokens: of the prompt. limit: of prompt and completion together. 0 where they are not known.
    """

    code = "context_length_exceeded"
    tokens = limit = 0


class ModelNotFoundError(BudmlxError):
    """No served model has that name."""

    code = "model_not_found"


class EngineClosedError(BudmlxError):
    """The engine was used after `close()`."""

    code = "engine_closed"


class OverloadedError(BudmlxError):
    """The queue is full; retry later."""

    code = "overloaded"


class QuotaError(BudmlxError):
    """The API key has too few tokens left for this request; retry after `retry_after` seconds."""

    code = "insufficient_quota"

    def __init__(self, message: str, *, code: str | None = None, retry_after: int = 1):
        super().__init__(message, code=code)
        self.retry_after = retry_after


class EngineUnavailableError(BudmlxError):
    """The core is restarting or its breaker is open; retry after `retry_after` seconds."""

    code = "engine_unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after: int = 5):
        super().__init__(message, code=code)
        self.retry_after = retry_after


class RequestFailedError(BudmlxError):
    """This request failed inside the engine; the others go on."""

    code = "request_failed"


class PluginError(RequestFailedError):
    """A plugin failed this request; the message names it."""

    code = "plugin_error"


class CancelledError(BudmlxError):
    """The request was cancelled by `cancel()`."""

    code = "cancelled"
