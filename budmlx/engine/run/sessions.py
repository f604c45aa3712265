"""Sessions in files: a row whose KV is saved, or that loads the KV of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from budmlx.engine.procedures import drive, drive_stream
from budmlx.engine.request.python_api import Messages, chat_request, prompt_request
from budmlx.engine.run.pipeline import RequestPipeline
from budmlx.protocol import SessionFile
from budmlx.types import Request

ONE_TOKEN = {"max_tokens": 1, "temperature": 0}


class SessionMethods:
    """The methods of an engine for sessions."""

    _pipeline: RequestPipeline

    def save_session(
        self, messages: Messages | Sequence[int], path: str | Path, *, adapter: str = ""
    ) -> int:
        """Write the KV of a long beginning, such as a book, to a file; returns its tokens.

        messages: as of `chat`, or token ids. Prompts that begin alike need not compute it after
        `load_session`, or on a server that is started with `--session`.
        adapter: the name of the one that they use, if any.

        Raises:
            InvalidRequestError: it cannot be saved; the message says why.
        """
        self._check_open()
        return _run(self._pipeline, _beginning(messages, adapter), path, save=True)

    def load_session(self, path: str | Path, *, adapter: str = "") -> None:
        """Read a session of this model; it stays in memory until the engine is closed.

        adapter: the name of the one that it was saved with, if any.

        Raises:
            InvalidRequestError: it cannot be used; the message says why.
        """
        self._check_open()
        _run(self._pipeline, _beginning([0], adapter), path, save=False)

    def _check_open(self) -> None:
        raise NotImplementedError


def _beginning(messages: Messages | Sequence[int], adapter: str) -> Request:
    """The request for the prompt of a session. messages: those of `chat`, or token ids."""
    options = {**ONE_TOKEN, "adapter": adapter}
    if not isinstance(messages, str) and messages and isinstance(messages[0], int):
        return prompt_request([id_ for id_ in messages if isinstance(id_, int)], options)
    return chat_request(messages, options)  # type: ignore[arg-type]


def _run(pipeline: RequestPipeline, request: Request, path: str | Path, *, save: bool) -> int:
    """Save or load a session, and wait for it; returns the tokens of the prompt.

    Raises:
        InvalidRequestError: it cannot be saved or loaded.
    """
    request, prompt = drive(pipeline.prepared(request))
    file = SessionFile(path=str(Path(path).expanduser().absolute()), save=save)
    for _ in drive_stream(pipeline.computed(request, prompt, session=file)):
        pass
    return len(prompt.ids)
