"""The values that cross rings: requests, sampling parameters, events, results.

Everything here is frozen and needs only the standard library, so that the server, the
engine, the core and plugins share one vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from budmlx.events import CacheExplanation as CacheExplanation
from budmlx.events import ChoiceFinished as ChoiceFinished
from budmlx.events import Event as Event
from budmlx.events import Finished as Finished
from budmlx.events import FinishReason as FinishReason
from budmlx.events import MissReason as MissReason
from budmlx.events import PrefixCacheStats as PrefixCacheStats
from budmlx.events import ReasoningDelta as ReasoningDelta
from budmlx.events import TextDelta as TextDelta
from budmlx.events import Timing as Timing
from budmlx.events import TokenLogprob as TokenLogprob
from budmlx.events import ToolCallDelta as ToolCallDelta
from budmlx.events import Usage as Usage
from budmlx.params import MAX_BIAS as MAX_BIAS
from budmlx.params import MAX_BIASES as MAX_BIASES
from budmlx.params import RANGES as RANGES
from budmlx.params import CachePolicy as CachePolicy
from budmlx.params import PluginChoice as PluginChoice
from budmlx.params import SamplingParams as SamplingParams

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
    """

    source: Any
    detail: Literal["auto", "low", "high"] = "auto"
    place: str = "image_url.url"


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant message carries; `arguments` is a JSON string."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: JSON schema of the object of arguments.

    strict: the arguments must be valid, so that they are constrained while they are written.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools. name: the one that it must call; mode is `required` then."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form that a reply must have; it is enforced while the reply is written.

    value: nothing for `json_object`, a JSON schema, a regular expression, a Lark grammar, or
    a sequence of texts to choose from. param: where it came from, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar", "choice"]
    value: Any = None
    param: str = "response_format"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    reasoning: what an assistant thought before its content. prefix: the reply goes on where this
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation. Exactly one of `messages` and `prompt` is given.

    prompt: raw text, or token ids, used as they are without a chat template.
    n: how many choices to generate; they share one prefill.
    tools: functions that the model may call. parallel_tool_calls: it may call several.
    incremental_calls: report the arguments of calls piece by piece.
    reasoning: report it apart (`parsed`), leave it in the text (`raw`), or drop it (`hidden`).
    chat_template_kwargs: extra variables for the template; only allow-listed names pass.
    cache: what the response cache may do; None leaves it to the engine's setting.
    namespace: whose request it is; kept replies are not shared between namespaces.
    cache_salt: nothing is reused between requests with other salts.
    explain_cache: say how much of the prompt's KV was reused, and why not more.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
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

    @property
    def shows_images(self) -> bool:
        """Whether there are pictures in the messages."""
        return any(message.shows_images for message in self.messages or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the engine knows of a loaded model.

    context_length: most tokens a sequence may have, prompt and completion together.
    vocab_size: width of the logits; a token id outside it must never reach the core.
    batchable: False when the model's cache cannot be merged, so that it runs row by row.
    needs_checkpoints: prompts go on only from places where a state was kept.
    """

    name: str
    path: str
    model_type: str
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    batchable: bool
    fingerprint: str
    created: int
    needs_checkpoints: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers of a reply.

    parsed: the content as an object, if the request gave a model class for it.
    """

    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply. `warnings` name parameters, or parts of them, without effect.

    cached, cache_explanation: see `Finished`.
    """

    choices: tuple[Choice, ...]
    usage: Usage
    timing: Timing
    model: str
    warnings: tuple[str, ...] = ()
    cached: bool = False
    cache_explanation: CacheExplanation | None = None

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finish_reason

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the first choice."""
        return self.choices[0].tool_calls

    @property
    def reasoning(self) -> str:
        """The reasoning of the first choice."""
        return self.choices[0].reasoning

    @property
    def parsed(self) -> Any:
        """The first choice's content as an object of the class given as `response_format`."""
        return self.choices[0].parsed

    def __str__(self) -> str:
        return self.text
