"""`context`: token ids of what was said before, which a text goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from budmlx.engine.engine import Engine
from budmlx.engine.text.encoding import check_ids
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.ollama.reply import GenerateLines
from budmlx.types import Completion, Event, Request, TextDelta


class ContinuedLines(GenerateLines):
    """Encodes the reply to a text that goes on from others, and ends it with the ids of all.

    context: the ids of those others; empty for the first one.
    """

    def __init__(self, *args: Any, context: Sequence[int], **options: Any):
        super().__init__(*args, **options)
        self._ids = tuple(context)
        self._text = ""
        self._engine: Engine | None = None

    def loaded(self, engine: Engine, request: Request) -> Request:
        """The request for all ids. Raises InvalidRequestError for those that no model has."""
        super().loaded(engine, request)
        self._warnings += _without_budget(engine, request)
        if request.shows_images:
            raise InvalidRequestError("`images` cannot be shown with `context`.", param="images")
        check_ids(self._ids, engine.info.vocab_size, "context")
        if request.messages is not None:
            new = engine.apply_template(request).ids
        else:
            new = engine.tokenize(str(request.prompt), add_special=not self._ids).ids
        self._engine = engine
        self._ids = (*self._ids, *new)
        ready = replace(
            request, messages=None, prompt=self._ids, reasoning="raw", chat_template_kwargs={}
        )
        # Beside what the template leaves out, there is what has no effect on ids.
        self._warnings += [w for w in engine.warnings(ready) if w not in self._warnings]
        return ready

    def chunks(self, event: Event) -> bytes:
        """The line for one event of the engine."""
        if isinstance(event, TextDelta):
            self._text += event.text
        return super().chunks(event)

    def whole(self, done: Completion) -> bytes:
        """The JSON of a whole reply."""
        self._text = done.text
        return super().whole(done)

    def _closing(self) -> dict[str, Any]:
        assert self._engine is not None
        reply = self._engine.tokenize(self._text, add_special=False).ids
        return {"context": (*self._ids, *reply)}


def _without_budget(engine: Engine, request: Request) -> list[str]:
    """Warnings for variables which the template does not read, and which stand for a budget of
    reasoning: ids have none.
    """
    if request.sampling.max_reasoning_tokens is not None:
        return []
    known = engine.warnings(request)
    bounded = replace(request, sampling=replace(request.sampling, max_reasoning_tokens=0))
    others = [each for each in engine.warnings(bounded) if each not in known]
    return [each for each in others if not each.startswith("max_reasoning_tokens")]
