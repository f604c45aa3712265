"""Defaults of requests: what a model adds to those that do not say it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from budmlx.types import BUILT_IN, Message, Request

INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """What a model adds to requests.

    sampling: values of parameters that a request does not say. system_prompt: begins
    conversations that have no instructions of their own; empty for none.
    """

    sampling: Mapping[str, float]
    system_prompt: str = ""

    def sampled(self, request: Request) -> Request:
        """The request with a value for each sampling parameter that it does not say."""
        missing = {
            name: value
            for name, value in self.sampling.items()
            if name not in request.given
            and getattr(request.sampling, name) == getattr(BUILT_IN, name)
        }
        if not missing:
            return request
        return replace(request, sampling=replace(request.sampling, **missing))  # type: ignore[arg-type]

    def instructed(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages behind the system prompt, if none of them are instructions.

        Empty instructions are instructions, too.
        """
        if not self.system_prompt or any(message.role in INSTRUCTIONS for message in messages):
            return messages
        return (Message(role="system", content=self.system_prompt), *messages)
