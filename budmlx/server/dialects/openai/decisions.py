"""`POST /v1/decisions`: how likely each of several answers is. No other service has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.run.decisions import MOST_CHOICES, Decision
from budmlx.errors import InvalidRequestError
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.body import Body
from budmlx.server.dialects.openai.chat import MAX_MESSAGES
from budmlx.server.dialects.openai.messages import ChatMessage
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.priority_body import PriorityBody
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.server.wire import Int, WireModel
from budmlx.types import Message, Request, SamplingParams

endpoints = EndpointTable("/v1", ERRORS)

YES_NO = ("yes", "no")


class ScoreRange(WireModel):
    """Whole numbers, each of which is a choice."""

    min: Int = Field(description="The smallest score.")
    max: Int = Field(description="The largest score.")


class DecisionRequest(PriorityBody, Body):
    """The body: a question as `input` or `messages`, and one kind of answers."""

    input: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The question, as the message of a user."
    )
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = (
        Field(None, description="The question, as a conversation.")
    )
    choices: Annotated[list[str], Field(min_length=2, max_length=MOST_CHOICES)] | None = Field(
        None, description="What the reply could be."
    )
    score: ScoreRange | None = Field(None, description="The reply is a number of this range.")
    yes_no: Literal[True] | None = Field(None, description="The reply is `yes` or `no`.")

    def answers(self) -> Sequence[str]:
        """The choices. Raises InvalidRequestError unless there is one kind of them."""
        kinds = [name for name in ("choices", "score", "yes_no") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise InvalidRequestError(
                "Exactly one of `choices`, `score` and `yes_no` must be given.",
                param=kinds[1] if kinds else "choices",
            )
        if self.choices is not None:
            return self.choices
        if self.score is None:
            return YES_NO
        count = self.score.max - self.score.min + 1
        if not 2 <= count <= MOST_CHOICES:
            raise InvalidRequestError(
                f"`score` must have 2 to {MOST_CHOICES} numbers.", param="score"
            )
        return [str(number) for number in range(self.score.min, self.score.max + 1)]

    def to_request(self, namespace: str, adapter: str) -> Request:
        """The question. Raises InvalidRequestError unless there is one."""
        if (self.input is None) == (self.messages is None):
            raise InvalidRequestError(
                "Exactly one of `input` and `messages` must be given.", param="input"
            )
        messages = (
            (Message(role="user", content=self.input),)
            if self.input is not None
            else tuple(message.to_message() for message in self.messages or ())
        )
        return Request(
            messages=messages, sampling=SamplingParams(), namespace=namespace, adapter=adapter
        )


class ChoiceOdds(Struct, frozen=True):
    """A choice. probability: compared with the others; all add up to 1."""

    choice: str
    probability: float


class DecisionUsage(Struct, frozen=True):
    """Tokens of the prompt."""

    prompt_tokens: int
    total_tokens: int


class DecisionReply(Struct, frozen=True, tag="decision", tag_field="object"):
    """How likely each choice is.

    choice: the most likely one. score: the mean of the scores, where these were the choices.
    mass: how likely the reply would have begun as one of the choices does, of all there could be.
    """

    model: str
    choice: str
    probabilities: Sequence[ChoiceOdds]
    mass: float
    usage: DecisionUsage
    score: float | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET


@endpoints.post("/v1/decisions", "How likely each answer is", DecisionRequest, DecisionReply)
async def decisions(request: web.Request) -> web.Response:
    """Say how likely each of several answers is; nothing is generated."""
    body, _ = await parsed(request, DecisionRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)
    model, key = await find_model(request, body.model), request.get(NAMESPACE, "")
    choices = body.answers()
    question = replace(body.to_request(key, model.adapter), priority=body.priority_in(request))
    origin = request.get(ORIGIN)
    slot = request.app[IN_FLIGHT].slot(1, key, model=model.name, origin=origin)
    async with slot, model.aengine() as engine:
        found = await engine.adecide(question, choices, origin=origin)
    reply = DecisionReply(
        model=model.name,
        choice=found.choice,
        probabilities=[
            ChoiceOdds(*each) for each in zip(found.choices, found.probabilities, strict=True)
        ],
        mass=found.mass,
        usage=DecisionUsage(found.usage.prompt_tokens, found.usage.total_tokens),
        score=UNSET if body.score is None else _mean(found),
        warnings=warnings or UNSET,
    )
    return as_json(reply)


def _mean(found: Decision) -> float:
    pairs = zip(found.choices, found.probabilities, strict=True)
    return sum(int(choice) * probability for choice, probability in pairs)
