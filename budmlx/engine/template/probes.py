"""Probes: what a chat template does with conversations, found by rendering small ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from budmlx.engine.template.limits import LimitError
from budmlx.engine.template.sandbox import TEMPLATE_FAULTS

Json = dict[str, Any]

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message under which templates read reasoning, the most common first."""
THINKING_PART = "thinking part"
"""Stands for a key where a template reads reasoning from a part of the content."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Levels of `reasoning_effort` that clients send, from the least to the most."""

# For templates that write reasoning only where it is wanted.
_THINKING = {
    "enable_thinking": True,
    "thinking": True,
    "preserve_thinking": True,
    "clear_thinking": False,
}
_SHORT_ID = "123456789"
_LONG_ID = "call_0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class CallFeatures:
    """What a template does with tool calls and reasoning of earlier replies.

    written: calls and their results are written. results: results are, whatever was called.
    several: several calls of one message are.
    short_ids: ids must have nine letters and digits. named_by_id: it writes ids, not names.
    with_content: the content of a message with calls is written.
    takes_objects: arguments may be an object. takes_json: they may be a text, written as it is.
    reasoning: the key from which reasoning is written; empty if it is not.
    reasoning_with_content: reasoning, content and calls may stand in one message.
    """

    written: bool = True
    results: bool = True
    several: bool = True
    short_ids: bool = False
    named_by_id: bool = False
    with_content: bool = True
    takes_objects: bool = True
    takes_json: bool = True
    reasoning: str = ""
    reasoning_with_content: bool = True


@dataclass(frozen=True, slots=True)
class OrderFeatures:
    """The orders of messages that a template takes, so that all of their text is written.

    heads: how many roles of instructions may begin a conversation: none, one message, or any.
    instructions: roles of instructions that may stand anywhere.
    users, assistants: several messages of that role may follow each other.
    assistant_first: no user needs to speak before an assistant.
    no_user: no user needs to speak at all.
    user_after_result: a user may speak after a tool's result.
    answer_after_result: an assistant may speak twice, with calls and results between.
    """

    head: bool = True
    heads: bool = True
    instructions: frozenset[str] = frozenset({"system", "developer"})
    users: bool = True
    assistants: bool = True
    assistant_first: bool = True
    no_user: bool = True
    user_after_result: bool = True
    answer_after_result: bool = True


def word(number: int) -> str:
    """A word that no template writes itself; none is a part of another."""
    return f"budmlxprobe{chr(ord('a') + number)}"


class Prober:
    """Renders small conversations. render: the template's rendering, of messages and variables.

    in_parts: content must be a list of parts. All methods raise LimitError where the template
    does too much.
    """

    def __init__(self, render: Callable[..., str]):
        self._render = render
        self.in_parts = False

    def text(self, messages: list[Json], **variables: Any) -> str | None:
        """The rendered text; None if the template fails."""
        try:
            return self._render(messages, **variables)
        except LimitError:
            raise
        except TEMPLATE_FAULTS:
            return None

    def said(self, role: str, said: int | list[Json] | None = None, **fields: Any) -> Json:
        """A message whose content is a word, parts, or empty."""
        content: Any = said
        if not isinstance(said, list):
            content = "" if said is None else word(said)
            if self.in_parts:
                content = [{"type": "text", "text": content}]
        return {"role": role, "content": content, **fields}

    def writes(self, *messages: Json, words: int) -> bool:
        """Whether the first so many words are all written."""
        text = self.text(list(messages))
        return text is not None and _has(text, *range(words))

    def takes_content(self, content: str | list[Json], *, also: str = "") -> bool:
        """Whether content of this shape, with the first word in it, comes out as text rather
        than as a printed list. also: what must be written, too."""
        text = self.text([{"role": "user", "content": content}]) or ""
        return _as_text(text, word(0)) and also in text

    def order(self, roles: tuple[str, ...]) -> OrderFeatures:
        """The orders that are taken. roles: those of instructions."""
        said, writes = self.said, self.writes
        if not writes(said("user", 0), said("assistant", 1), said("user", 2), words=3):
            return OrderFeatures()  # Nothing can be told.
        anywhere = frozenset(
            role
            for role in roles
            if writes(
                said("user", 0), said("assistant", 1), said(role, 2), said("user", 3), words=4
            )
            and writes(said("system", 0), said("user", 1), said(role, 2), words=3)
        )
        call = {"id": _SHORT_ID, "type": "function", "function": {"name": "f", "arguments": {}}}
        calling = said("assistant", tool_calls=[call])
        result = said("tool", 1, tool_call_id=_SHORT_ID)
        asked = [said("user", 0), calling, result]
        calls = writes(*asked, words=2)
        answered = [said("user", 0), said("assistant", 2), calling, result, said("assistant", 3)]
        return OrderFeatures(
            head=writes(said("system", 0), said("user", 1), words=2),
            heads=all(
                writes(said("system", 0), said(r, 1), said("user", 2), words=3) for r in roles
            ),
            instructions=anywhere,
            users=writes(said("user", 0), said("user", 1), words=2),
            assistants=writes(
                said("user", 0),
                said("assistant", 1),
                said("assistant", 2),
                said("user", 3),
                words=4,
            ),
            assistant_first=writes(said("assistant", 0), said("user", 1), words=2),
            no_user=writes(said("system", 0), words=1),
            user_after_result=not calls or writes(*asked, said("user", 2), words=3),
            answer_after_result=not calls or writes(*answered, said("user", 4), words=5),
        )

    def reasoning_end(self, key: str) -> str:
        """The text between the reasoning of a reply and its content; empty if it is not written.

        key: where the template reads reasoning.
        """
        if key == THINKING_PART:
            parts = [{"type": "thinking", "thinking": word(1)}, {"type": "text", "text": word(2)}]
            reply = self.said("assistant", parts)
        else:
            reply = self.said("assistant", 2, **{key: word(1)})
        text = self.text([self.said("user", 0), reply], **_THINKING) or ""
        between, found, _ = text.partition(word(1))[2].partition(word(2))
        return between if found else ""

    def wants_descriptions(self) -> bool:
        """Whether tools must have a description."""
        asked = [self.said("user", 0)]
        bare: Json = {"name": word(1), "parameters": {"type": "object", "properties": {}}}
        forms = (bare, {**bare, "description": ""})
        texts = [self.text(asked, tools=[{"type": "function", "function": f}]) for f in forms]
        return texts[0] is None and texts[1] is not None

    def efforts(self, words: frozenset[str]) -> tuple[str, ...]:
        """The levels of `reasoning_effort` that are known. words: texts in its code."""

        def text(level: str) -> str | None:
            return self.text([self.said("user", 0)], reasoning_effort=level)

        texts = {level: text(level) for level in EFFORTS}
        unknown = text(word(1))
        if unknown is None:
            return tuple(level for level in EFFORTS if texts[level] is not None)
        if word(1) in unknown:
            # It writes any word; these are the levels that models of this kind are trained on.
            return tuple(x for x in EFFORTS if x in {"low", "medium", "high"} | words)
        return tuple(x for x in EFFORTS if texts[x] not in (None, unknown) or x in words)


class CallProber:
    """Renders small conversations with calls, and reasoning beside them."""

    def __init__(self, prober: Prober):
        self._prober = prober
        self._said = prober.said
        self._takes_json = self._writes_texts()
        objects = self._calling({word(0): 1}) is not None
        self._takes_objects = objects or self._calling("{}") is None
        self._short_ids = not self._writes_calls(_LONG_ID) and self._writes_calls(_SHORT_ID)
        self._id = _SHORT_ID if self._short_ids else _LONG_ID

    def features(self) -> CallFeatures:
        """What the template does with them."""
        if not self._writes_calls(self._id):
            asked = [self._said("user", 0), self._said("assistant", 1)]
            result = self._said("tool", 2, tool_call_id=self._id)
            return CallFeatures(
                written=False,
                results=self._prober.writes(*asked, result, words=3),
                reasoning=self._reasoning_key(self._reply),
            )
        once = self._text(self._history())
        key = self._reasoning_key(self._history)
        together = ""
        if key in REASONING_KEYS:
            together = self._text(self._history(4, **{key: word(5)}))
        return CallFeatures(
            several=self._writes_several(named=word(1) in once),
            short_ids=self._short_ids,
            named_by_id=word(1) not in once and self._id in once,
            with_content=word(4) in self._text(self._history(4)),
            takes_objects=self._takes_objects,
            takes_json=self._takes_json,
            reasoning=key,
            reasoning_with_content=key not in REASONING_KEYS or _has(together, 2, 4, 5),
        )

    def _text(self, messages: list[Json]) -> str:
        return self._prober.text([self._said("user", 0), *messages], **_THINKING) or ""

    def _writes_texts(self) -> bool:
        """Whether arguments may be a text, which comes out as it is."""
        arguments = f'{{"{word(1)}": "{word(2)}'
        return arguments in (self._calling(arguments) or "")

    def _calling(self, arguments: str | Json) -> str | None:
        function = {"name": word(0), "arguments": arguments}
        call = {"id": _SHORT_ID, "type": "function", "function": function}
        return self._prober.text(
            [self._said("user", 0), self._said("assistant", tool_calls=[call])]
        )

    def _call(self, call_id: str, name: int) -> Json:
        """A call of a function that is named by a word, with the next word as its argument."""
        text = word(name + 1)
        arguments: Any = {"a": text} if self._takes_objects else f'{{"a": "{text}"}}'
        function = {"name": word(name), "arguments": arguments}
        return {"id": call_id, "type": "function", "function": function}

    def _reply(self, content: int | list[Json] | None = 1, **fields: Any) -> list[Json]:
        return [self._said("assistant", content, **fields)]

    def _history(
        self, content: int | list[Json] | None = None, call_id: str = "", **fields: Any
    ) -> list[Json]:
        """A reply with a call, and its result."""
        call_id = call_id or self._id
        calling = self._reply(content, tool_calls=[self._call(call_id, 1)], **fields)
        return [*calling, self._said("tool", 3, tool_call_id=call_id)]

    def _writes_calls(self, call_id: str) -> bool:
        return _has(self._text(self._history(call_id=call_id)), 2, 3)

    def _writes_several(self, *, named: bool) -> bool:
        other = self._id[:-1] + "0"
        calling = self._said(
            "assistant", tool_calls=[self._call(self._id, 1), self._call(other, 4)]
        )
        results = [
            self._said("tool", 3, tool_call_id=self._id),
            self._said("tool", 6, tool_call_id=other),
        ]
        return _has(self._text([calling, *results]), 2, 3, 5, 6, *((1, 4) if named else ()))

    def _reasoning_key(self, history: Callable[..., list[Json]]) -> str:
        """The key under which a reply's reasoning is written, after the last user's message or
        before it."""
        for after in ([], [self._said("user", 6)]):
            for key in REASONING_KEYS:
                if _has(self._text([*history(**{key: word(5)}), *after]), 5):
                    return key
            parts = [{"type": "thinking", "thinking": word(5)}, {"type": "text", "text": word(4)}]
            text = self._text([*history(content=parts), *after])
            if _as_text(text, word(5)) and _as_text(text, word(4)):
                return THINKING_PART
        return ""


def _has(text: str, *numbers: int) -> bool:
    return all(word(number) in text for number in numbers)


def _as_text(text: str, found: str) -> bool:
    return found in text and f"'{found}'" not in text and f'"{found}"' not in text
