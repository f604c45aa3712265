"""Chat templates: the features that a model's template supports, and rendering with it."""

from __future__ import annotations

import copy
import logging
import secrets
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jinja2
from jinja2 import meta, nodes

from budmlx.engine.template.limits import PER_CHARACTER, PER_MESSAGE, SECONDS, LimitError, Limits
from budmlx.engine.template.probes import EFFORTS, REASONING_KEYS, CallProber, Json, Prober, word
from budmlx.engine.template.sandbox import (
    TEMPLATE_FAULTS,
    RaisedError,
    compiled,
    environment,
    render,
)
from budmlx.errors import InvalidRequestError, ModelLoadError, OverloadedError
from budmlx.types import Message

logger = logging.getLogger(__name__)

COMMON_KWARGS = frozenset(
    {"clear_thinking", "enable_thinking", "reasoning_effort", "thinking", "thinking_budget"}
)
"""Names that clients send to any model; a template that does not read one ignores it."""

SPECIAL_TOKEN_NAMES = tuple(
    f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""Variables that hold a tokenizer's special tokens."""

RESERVED_KWARGS = frozenset(
    {
        *SPECIAL_TOKEN_NAMES,
        "messages",
        "tools",
        "tokenize",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
    }
)

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role | capitalize }}: {{ message.content | trim }}

{% endfor -%}
Assistant:"""
"""For models that bring no template, such as base models."""

_EFFORT = "reasoning_effort"
_ID_CHARACTERS = string.ascii_letters + string.digits
_INSTRUCTIONS = ("system", "developer")


class ChatTemplate:
    """A compiled template and the features that it supports.

    plain: it stands in for a template that the model lacks. source: its text.
    reads_tools: it writes tool definitions.
    names: variables that callers may set through `chat_template_kwargs`.
    literals: all text that the template itself can write, for searching.
    takes_text, takes_parts: shapes of message content that it renders.
    calls, order: what it does with earlier replies, and with the order of messages.
    parts_think_tags: it writes reasoning between think tags, so that reasoning may be taken out
    of content that has such tags.
    wants_descriptions: it fails for tools without a description.
    efforts: the levels of `reasoning_effort` that it knows; empty if that has no effect.
    mark, end: set by `marking` and `continuing`; else empty.
    seconds: how long a rendering may take, besides what is added for its size.
    """

    def __init__(
        self,
        source: str | None,
        special_tokens: Mapping[str, str],
        *,
        seconds: float = SECONDS,
    ):
        self._seconds = seconds
        self.plain = source is None
        self.source = source or PLAIN_TEMPLATE
        self._special_tokens = dict(special_tokens)
        self.mark = self._placeholder = self.end = ""
        try:
            tree = environment().parse(self.source)
            self._template = compiled(self.source, seconds)
        except jinja2.TemplateSyntaxError as error:
            raise ModelLoadError(
                f"The model's chat template is not valid (line {error.lineno}): {error.message}"
            ) from error
        except RecursionError:
            raise ModelLoadError("The model's chat template is nested too deeply.") from None
        # What follows folds constants, lists of them too.
        self._roles = _compared_roles(tree)
        words = frozenset(
            node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)
        )
        read = meta.find_undeclared_variables(tree)
        self.reads_tools = "tools" in read
        names = read - _assigned_names(tree)
        self.names = frozenset(names - environment().globals.keys() - RESERVED_KWARGS)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [c.value for c in tree.find_all(nodes.Const) if isinstance(c.value, str)]
        self.literals = "\0".join(texts)
        try:
            self._probe(words)
        except LimitError as error:
            raise ModelLoadError(
                f"The model's chat template cannot be used: {error}, for a few words. Take "
                "another version of the model, or remove the template from its directory."
            ) from None

    def _probe(self, words: frozenset[str]) -> None:
        """Find the features. words: texts in the template's code. Raises LimitError."""
        self._prober = prober = Prober(self._render)
        self.takes_parts = prober.takes_content([{"type": "text", "text": word(0)}])
        self.takes_text = prober.takes_content(word(0)) or not self.takes_parts
        prober.in_parts = not self.takes_text
        self.calls = CallProber(prober).features()
        keyed = self.calls.reasoning in REASONING_KEYS
        self.parts_think_tags = keyed and "</think>" in self.literals
        self.order = prober.order(tuple(r for r in _INSTRUCTIONS if self.role(r) == r))
        self.wants_descriptions = prober.wants_descriptions()
        self.efforts = prober.efforts(words) if _EFFORT in self.names else ()

    def takes_images(self, placeholder: str) -> bool:
        """Whether it writes this text for a part of the type `image`."""
        parts = [{"type": "image"}, {"type": "text", "text": word(0)}]
        with suppress(LimitError):
            return self._prober.takes_content(parts, also=placeholder)
        return False

    def marking(self, placeholder: str) -> ChatTemplate:
        """The same template, which writes `placeholder` wherever messages hold its `mark`.

        Users cannot know the mark, so the placeholder is the template's own text.
        """
        marking = copy.copy(self)
        marking.mark, marking._placeholder = f"\ue000{secrets.token_hex(8)}\ue000", placeholder
        return marking

    def continuing(self) -> ChatTemplate:
        """The same template, which writes up to `end`, which the last message holds."""
        continuing = copy.copy(self)
        continuing.end = f"\ue001{secrets.token_hex(8)}\ue001"
        return continuing

    def role(self, role: str) -> str:
        """The name under which the template knows a role."""
        if role in self._roles:
            return role
        return {"developer": "system", "function": "tool"}.get(role, role)

    def takes(self, messages: Sequence[Message]) -> bool:
        """Whether the messages are as all templates take them.

        After at most one message of instructions, users and assistants take turns, without calls.
        There must be at least one message.
        """
        head = messages[0].role in _INSTRUCTIONS
        turns = messages[1:] if head else messages
        if not turns or (head and not self.order.head):
            return False
        return all(
            message.role == ("assistant" if place % 2 else "user")
            and not message.tool_calls
            and (not message.reasoning or bool(self.calls.reasoning))
            for place, message in enumerate(turns)
        )

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse names that the template does not read and values that are not JSON.

        Raises:
            InvalidRequestError: `param` is `chat_template_kwargs.NAME`.
        """
        for name, value in kwargs.items():
            param = f"chat_template_kwargs.{name}"
            if name not in self.names | COMMON_KWARGS:
                known = ", ".join(sorted(self.names | COMMON_KWARGS))
                raise InvalidRequestError(
                    f"{param} is not a variable of this model's chat template. It knows: {known}.",
                    param=param,
                )
            if not _is_json(value):
                raise InvalidRequestError(f"{param} must be a JSON value.", param=param)

    def unused_kwargs(self, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Accepted names without effect on this model, for the reply's warnings."""
        return tuple(sorted(kwargs.keys() - self.names))

    def with_known_effort(self, kwargs: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """The variables with a level of effort that the template knows, and a warning if that
        is another one than was asked for, else an empty text.

        Raises:
            InvalidRequestError: the level is none that any model knows.
        """
        asked = kwargs.get(_EFFORT)
        if not self.efforts or asked is None or asked in self.efforts:
            return kwargs, ""
        known = ", ".join(self.efforts)
        if asked not in EFFORTS:
            raise InvalidRequestError(
                f"{_EFFORT} must be one of the levels that this model knows: {known}.",
                param=_EFFORT,
            )
        if asked == "none" and "enable_thinking" in self.names:
            others = {name: value for name, value in kwargs.items() if name != _EFFORT}
            return {"enable_thinking": False, **others}, ""
        place = EFFORTS.index(asked)
        levels = [level for level in self.efforts if level != "none"] or [asked]
        nearest = min(reversed(levels), key=lambda level: abs(EFFORTS.index(level) - place))
        warning = (
            f"{_EFFORT} was taken as {nearest}: the chat template does not know {asked}. "
            f"It knows: {known}."
        )
        return {**kwargs, _EFFORT: nearest}, warning

    def reasoning_end(self) -> str:
        """The text that it writes between a reply's reasoning and content; empty if it does not."""
        if not self.calls.reasoning:
            return ""
        with suppress(LimitError):
            return self._prober.reasoning_end(self.calls.reasoning)
        return ""

    def new_call_id(self) -> str:
        """An id for a call that the template takes back."""
        if self.calls.short_ids:
            return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"

    def render(self, messages: Sequence[Json], tools: Any = None, **kwargs: Any) -> str:
        """The prompt's text, up to where the assistant begins, or goes on.

        Raises:
            InvalidRequestError: the template refuses these messages, fails on them, or does more
                for them than it may.
            OverloadedError: there is no memory for it now.
        """
        try:
            return self._render(messages, tools, **kwargs)
        except RaisedError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from None
        except LimitError as error:
            raise InvalidRequestError(
                f"The messages are too long for the model's chat template: {error}. Shorten the "
                "conversation.",
                param="messages",
                code="template_limit",
            ) from None
        except MemoryError:
            raise OverloadedError(
                "There is no memory to render the messages; retry later."
            ) from None
        except TEMPLATE_FAULTS as error:
            logger.debug("Chat template failed: %r", error)
            raise InvalidRequestError(
                "The model's chat template cannot render these messages. Check that their "
                "roles, their order and their tool calls are ones that the model supports.",
                param="messages",
            ) from None

    def _render(self, messages: Sequence[Json], tools: Any = None, **kwargs: Any) -> str:
        variables = {"tools": tools, "documents": None, **self._special_tokens, **kwargs}
        variables |= {"messages": messages, "add_generation_prompt": not self.end}
        seconds = self._seconds + PER_MESSAGE * len(messages)
        seconds += PER_CHARACTER * Limits(0).weight([messages, tools])
        text = render(self._template, variables, seconds)
        if self.end:
            text, found, _ = text.partition(self.end)
            if not found:
                raise RaisedError("it does not write the message that is to be continued")
        return text.replace(self.mark, self._placeholder) if self.mark else text


def _compared_roles(tree: nodes.Template) -> frozenset[str]:
    """Strings that the template compares a message's role with."""
    found: set[str] = set()
    for compare in tree.find_all(nodes.Compare):
        inside: list[nodes.Node] = [compare.expr, *(operand.expr for operand in compare.ops)]
        inside += [node for side in inside for node in side.find_all(nodes.Node)]
        values = [node.value for node in inside if isinstance(node, nodes.Const)]
        names = [node.attr for node in inside if isinstance(node, nodes.Getattr)]
        names += [node.name for node in inside if isinstance(node, nodes.Name)]
        if "role" in [*names, *values]:
            found.update(value for value in values if isinstance(value, str))
    return frozenset(found)


def _assigned_names(tree: nodes.Template) -> set[str]:
    """Variables that the template sets itself, unless it looks first whether they are set."""
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    checks: list[nodes.Test | nodes.Filter] = list(tree.find_all((nodes.Test, nodes.Filter)))
    looked_at = {
        check.node.name
        for check in checks
        if check.name in ("defined", "undefined", "default", "d")
        and isinstance(check.node, nodes.Name)
    }
    return assigned - looked_at


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
