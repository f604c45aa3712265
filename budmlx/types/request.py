"""Requests: messages, tools, and the form of the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from budmlx.types.sampling import CachePolicy, SamplingParams

Priority = Literal["interactive", "background"]
"""A class of requests: those of the background run only on what interactive ones leave."""
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message whose content is a list of parts."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture inside a message whose content is a list of parts.

    source: a URL (`data:`, `http:` or `https:`) as text; in the Python API also the bytes or
    the path of a file, a PIL image, or an array. place: what errors call it.
    instead: text in its place where the model takes no pictures; empty: the request is refused.
    """

    source: Any
    detail: Literal["auto", "low", "high"] = "auto"
    place: str = "image_url.url"
    instead: str = ""


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant message carries; `arguments` is a JSON string."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    reasoning: what an assistant thought before its content. prefix: the reply continues where this
    content ends; only for an assistant's message that is the last one.
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    prefix: bool = False

    @property
    def text(self) -> str:
        """The content's text as one string: parts are joined without a separator."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def shows_images(self) -> bool:
        """Whether there are pictures in the content."""
        parts = () if isinstance(self.content, str) else self.content
        return any(isinstance(part, ImagePart) for part in parts)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: JSON schema of the object of arguments.

    strict: the arguments must be valid, so that they are constrained while they are written.
    deferred: it is not listed at the head of the prompt, since a message has its definition.
    shown: the schema that the model sees, if it is not all of `parameters`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    strict: bool = False
    deferred: bool = False
    shown: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The use of tools. name: the one that the model must call; mode is `required` then.

    allowed: the only ones that it may call, so that it sees no others; empty for all.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form that a reply must have; it is enforced while the reply is written.

    value: nothing for `json_object`, a JSON schema, a regular expression, a Lark grammar, or
    a sequence of texts to choose from. param: where it came from, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar", "choice"]
    value: Any = None
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """A place up to which prompts to come are expected to be the same.

    messages: so many of the first ones; of the last of them only the first `parts` of its
    content, if that is not 0. seconds: how long its KV is to be kept before that of others.
    """

    messages: int
    parts: int = 0
    seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation. Exactly one of `messages` and `prompt` is given.

    prompt: raw text, or token ids, used as they are without a chat template.
    suffix: text that follows the reply to raw text, which then is what stands between; None where
    the reply just goes on. Some models only were trained for that.
    given: the sampling parameters that the caller said. A model's defaults replace none of these,
    and none whose value is not the built-in one.
    n: how many choices to generate; they share one prefill.
    tools: functions that the model may call. parallel_tool_calls: it may call several.
    incremental_calls: report the arguments of calls piece by piece.
    reasoning: report it apart (`parsed`), leave it in the text (`raw`), or drop it (`hidden`).
    chat_template_kwargs: extra variables for the template; only allow-listed names pass.
    cache: what the response cache may do; None leaves it to the engine's setting.
    namespace: an opaque name of the client; cached responses are not shared between namespaces.
    cache_salt: nothing is reused between requests with other salts.
    explain_cache: say how much of the prompt's KV was reused, and why not more.
    speculation: False keeps it from drafting tokens; what is said is the same.
    priority: its class.
    prediction: a text that the reply is expected to repeat, for drafts; what is said is the same.
    adapter: the name of the adapter to use, empty for none; inside the engine, its files' digest.
    breakpoints: places up to which its messages are expected to come again.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    suffix: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    given: frozenset[str] = frozenset()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    incremental_calls: bool = False
    response_format: ResponseFormat | None = None
    reasoning: Literal["parsed", "raw", "hidden"] = "parsed"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    cache: CachePolicy | None = None
    namespace: str = ""
    cache_salt: str = ""
    explain_cache: bool = False
    speculation: bool = True
    priority: Priority = "interactive"
    prediction: str = ""
    adapter: str = ""
    breakpoints: tuple[Breakpoint, ...] = ()

    @property
    def shows_images(self) -> bool:
        """Whether there are pictures in the messages."""
        return any(message.shows_images for message in self.messages or ())
