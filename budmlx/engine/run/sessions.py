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


def beginning(messages: Messages | Sequence[int]) -> Request:
    """The request for the prompt of a session. messages: those of `chat`, or token ids."""
    if not isinstance(messages, str) and messages and isinstance(messages[0], int):
        return prompt_request([id_ for id_ in messages if isinstance(id_, int)], ONE_TOKEN)
    return chat_request(messages, ONE_TOKEN)  # type: ignore[arg-type]


def run_session(
    pipeline: RequestPipeline, request: Request, path: str | Path, *, save: bool
) -> int:
    """Save or load a session, and wait for it; returns the tokens of the prompt.

    Raises:
        InvalidRequestError: it cannot be saved or loaded.
    """
    request, prompt = drive(pipeline.preparation.run(request))
    file = SessionFile(path=str(Path(path).expanduser().absolute()), save=save)
    for _ in drive_stream(pipeline.computed(request, prompt, file)):
        pass
    return len(prompt.ids)
