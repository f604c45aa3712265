"""History: the messages of a conversation, in an order and a form that a chat template takes.

What a template takes was found when it was loaded, so that a message is written the same way
in every request of a conversation, whatever follows it, and KV is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from budmlx.engine.request.past_calls import RESULTS, in_turns, with_usable_calls
from budmlx.engine.template.probes import OrderFeatures
from budmlx.engine.template.template import ChatTemplate
from budmlx.types import ImagePart, Message, Part, TextPart

INSTRUCTIONS = ("system", "developer")
PICTURE = TextPart("[The picture is shown below.]")
"""Stands in a result for its picture."""
MAX_NOTES = 16
"""Of the changes to one request, those that are told one by one."""


@dataclass(frozen=True, slots=True)
class History:
    """Messages for a template. notes: a sentence for each change that a caller should know."""

    messages: tuple[Message, ...]
    notes: tuple[str, ...]


def history_for(template: ChatTemplate, messages: Sequence[Message]) -> History:
    """The messages as the template takes them, so that the text of all of them is written.

    Raises:
        InvalidRequestError: too many arguments are broken; `param` names a place.
    """
    notes: list[str] = []
    unread = not template.calls.reasoning and any(message.reasoning for message in messages)
    if unread:
        notes.append(
            "reasoning_content has no effect: the chat template does not write the reasoning of "
            "earlier replies."
        )
    calls = any(message.tool_calls or message.role in RESULTS for message in messages)
    usable = with_usable_calls(messages, template.calls, notes) if calls else messages
    placed = _Placement(template, notes).of(usable)
    turns = in_turns(_pictures_apart(placed), template.calls) if calls else placed
    return History(tuple(_ordered(turns, template.order)), tuple(notes))


def changes(template: ChatTemplate, messages: Sequence[Message]) -> list[str]:
    """A sentence for each message that is rendered otherwise than it was sent.

    Raises:
        InvalidRequestError: see `history_for`.
    """
    notes = history_for(template, messages).notes
    hidden = len(notes) - MAX_NOTES
    more = [f"{hidden} more messages were changed."] if hidden > 0 else []
    return [*notes[:MAX_NOTES], *more]


class _Placement:
    """Puts instructions where a template writes them. notes: gets a sentence for each change."""

    def __init__(self, template: ChatTemplate, notes: list[str]):
        self._template = template
        self._order = template.order
        self._notes = notes
        self._placed: list[Message] = []
        self._open = False  # The last message is a reminder; what the user says next joins it.

    def of(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, with all instructions in their place."""
        count = next((n for n, m in enumerate(messages) if m.role not in INSTRUCTIONS), None)
        count = len(messages) if count is None else count
        self._begin(messages[:count])
        waiting: list[tuple[int, Message]] = []
        for index, message in enumerate(messages[count:], count):
            if message.role in INSTRUCTIONS and not self._written(message):
                waiting.append((index, message))
                continue
            if message.role not in RESULTS:  # Nothing may stand between calls and results.
                self._remind(waiting)
            self._add(message)
        self._remind(waiting)
        return self._placed

    def _written(self, message: Message) -> bool:
        return self._template.role(message.role) in self._order.instructions

    def _begin(self, head: Sequence[Message]) -> None:
        """Place the instructions that a conversation begins with."""
        text = "\n\n".join(message.text for message in head if message.text)
        if head and not self._order.head:
            self._notes.append(
                f"messages[0] is of the role {head[0].role}, for which the chat template has no "
                "place; its text begins the user's first message."
            )
            self._placed.append(Message(role="user", content=text))
            self._open = True
        elif len(head) > 1 and not self._order.heads:
            self._notes.append(
                f"The chat template takes one message of instructions; messages[0] to "
                f"messages[{len(head) - 1}] are joined."
            )
            self._placed.append(replace(head[0], content=text))
        else:
            self._placed += head

    def _add(self, message: Message) -> None:
        if self._open and message.role == "user":
            message = joined(self._placed.pop(), message)
        self._open = False
        self._placed.append(message)

    def _remind(self, waiting: list[tuple[int, Message]]) -> None:
        """Write instructions as text of the user's message before them, or as one of its own."""
        for index, message in waiting:
            text = f"<system-reminder>\n{message.text}\n</system-reminder>"
            reminder = Message(role="user", content=text)
            if self._placed and self._placed[-1].role == "user":
                self._placed[-1] = joined(self._placed[-1], reminder)
            else:
                self._placed.append(reminder)
                self._open = True
            self._notes.append(
                f"messages[{index}] is of the role {message.role}, which the chat template does "
                "not take there; it stands in a user's message, as <system-reminder>."
            )
        waiting.clear()


def _pictures_apart(messages: Sequence[Message]) -> list[Message]:
    """The messages with the pictures of results in a user's message after them.

    Few templates write pictures elsewhere. Their order stays the same.
    """
    apart: list[Message] = []
    shown: list[Part] = []
    for message in messages:
        if message.role in RESULTS and not isinstance(message.content, str):
            shown += [part for part in message.content if isinstance(part, ImagePart)]
            message = replace(message, content=tuple(map(_without_picture, message.content)))
        elif shown and message.role not in RESULTS:
            apart.append(Message(role="user", content=tuple(shown)))
            shown = []
        apart.append(message)
    return [*apart, *([Message(role="user", content=tuple(shown))] if shown else [])]


def _without_picture(part: Part) -> TextPart:
    return PICTURE if isinstance(part, ImagePart) else part


def _ordered(messages: Sequence[Message], order: OrderFeatures) -> list[Message]:
    """The messages in an order of roles that the template takes.

    Neighbours of one role are joined, and an empty message fills a place that must not be void.
    """
    ordered: list[Message] = []
    answered = False  # Since the user spoke last.
    for message in messages:
        before = ordered[-1] if ordered else None
        user, assistant = message.role == "user", message.role == "assistant"
        if before is not None and _joins(before, message, order):
            ordered[-1] = joined(before, message)
            continue
        spoken = before is not None and before.role not in INSTRUCTIONS
        if assistant and not spoken and not order.assistant_first:
            ordered.append(Message(role="user"))
        called = before is not None and (before.role in RESULTS or bool(before.tool_calls))
        unanswered = called and not answered
        if user and unanswered and not order.user_after_result:
            ordered.append(Message(role="assistant"))
        answers = assistant and not message.tool_calls
        if answers and answered and not order.answer_after_result:
            ordered.append(Message(role="user"))
        answered = answers or (answered and not user)
        ordered.append(message)
    if not order.no_user and not any(message.role == "user" for message in ordered):
        head = sum(message.role in INSTRUCTIONS for message in ordered)
        ordered.insert(head, Message(role="user"))
    return ordered


def _joins(before: Message, message: Message, order: OrderFeatures) -> bool:
    if before.role != message.role or before.tool_calls or message.tool_calls:
        return False
    return {"user": not order.users, "assistant": not order.assistants}.get(message.role, False)


def joined(first: Message, second: Message) -> Message:
    """Two messages of one role as one, with an empty line between."""
    reasoning = "\n\n".join(filter(None, [first.reasoning, second.reasoning])) or None
    return replace(
        second,
        content=_joined_content(first.content, second.content),
        name=second.name or first.name,
        reasoning=reasoning,
    )


def _joined_content(
    first: str | tuple[Part, ...], second: str | tuple[Part, ...]
) -> str | tuple[Part, ...]:
    if not first or not second:
        return second or first
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    parts = [(TextPart(c),) if isinstance(c, str) else c for c in (first, second)]
    return (*parts[0], TextPart("\n\n"), *parts[1])
