"""Built-in reasoning parsers: blocks between two markers, and messages to channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from budmlx import hookimpl
from budmlx.builtin.reader import Broken, Reader, Steps, markers
from budmlx.plugins.parsing import (
    Content,
    ModelTraits,
    Piece,
    ReasoningMarkup,
    ReasoningParserSpec,
    Thought,
)

# What stands between the turns of a conversation: the reply has not begun before it.
_TURN = re.compile(r"<[|\uff5c]|[|\uff5c]>|\[/?INST\]|_of_turn>|</?(?:user|assistant|s)>")

_TOKEN = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
_REPLY, _MESSAGE = "<|start|>assistant", "<|message|>"


@dataclass(frozen=True, slots=True)
class Block:
    """Reasoning between two markers, each of which may have variants.

    signs: texts in a chat template, or tokens, of which each shows that a model writes it.
    anywhere: blocks may come after content too. Otherwise one may only begin a reply, since
    its marker is text that a reply may mention.
    dropped: further markup, around content. closing: what ends a block that is cut off, if the
    chat template does not show it; empty for the end marker.
    """

    name: str
    begins: tuple[str, ...]
    ends: tuple[str, ...]
    signs: tuple[str, ...]
    anywhere: bool = False
    dropped: tuple[str, ...] = ()
    closing: str = ""

    @property
    def spec(self) -> ReasoningParserSpec:
        """The specification for the engine."""
        texts = (*self.begins, *self.ends, *self.dropped)
        visible = tuple(token for text in texts for token in _TOKEN.findall(text))
        make = partial(BlockScanner, self)
        closing = self.closing or self.ends[0]
        markup = ReasoningMarkup(self.begins, self.ends, (closing,), self.anywhere)
        return ReasoningParserSpec(self.name, make, visible, self.begins[0], self.ends[0], markup)

    def open_in(self, prompt: str) -> bool:
        """Whether a prompt ends inside of a block."""
        place, begin = max((prompt.rfind(text), text) for text in self.begins)
        ended = max(prompt.rfind(text) for text in self.ends)
        return place > ended and not _TURN.search(prompt, place + len(begin))


class BlockScanner:
    """The `OutputParser` of blocks.

    Up to two newlines on either side of a block's markers are dropped with them. A block that
    does not end is reasoning to the end of the reply.
    """

    def __init__(self, block: Block, prompt: str):
        self._block = block
        self._reader = Reader()
        self._ends = markers(*block.ends)
        outside = (*(block.begins if block.anywhere else ()), *block.dropped)
        self._outside = markers(*outside) if outside else None
        self._steps = self._run(block.open_in(prompt))

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`."""
        return self._reader.advance(self._steps, text, last)

    def _run(self, inside: bool) -> Steps[None]:
        reader = self._reader
        if not inside:
            yield from reader.space()
            inside = bool((yield from reader.maybe(*self._block.begins)))
        more = True
        while more:
            if inside:
                yield from self._newlines()
                yield from self._thought()
                yield from self._newlines()
            inside = more = yield from self._content()

    def _newlines(self) -> Steps[None]:
        """Drop a marker that was read, and newlines after it."""
        for _ in range(2):
            yield from self._reader.maybe("\n")
        self._reader.drop()

    def _thought(self) -> Steps[None]:
        """Pass reasoning on up to the end of the block, which is read."""
        reader = self._reader
        while True:
            found = self._ends.search(reader.buffer, reader.at, complete=reader.last)
            end = len(reader.buffer) if found is None else found.start()
            complete = found is not None and found[1]
            if complete or not reader.last:
                newlines = end - len(reader.buffer[reader.at : end].rstrip("\n")) - reader.at
                end -= min(newlines, 2)
            reader.pass_on(end, Thought)
            reader.at = end
            if found is not None and complete:
                reader.at = found.end()
                return
            if reader.last:
                return
            yield

    def _content(self) -> Steps[bool]:
        """Pass content on; returns whether a block begins."""
        reader = self._reader
        while True:
            found = None
            if self._outside is not None:
                found = self._outside.search(reader.buffer, reader.at, complete=reader.last)
            reader.at = len(reader.buffer) if found is None else found.start()
            reader.pass_on(reader.at)
            if found is not None and found[1]:
                reader.at = found.end()
                if found[1] in self._block.begins:
                    return True
                reader.drop()
            elif reader.last:
                return False
            else:
                yield


@dataclass(frozen=True, slots=True)
class Channels:
    """Messages with headers, which say whom or what a message is for.

    heads, tails: what headers begin with, and what messages end with.
    reasoning, calls: patterns of the headers of reasoning, and of those that a tool parser reads
    with their messages. Messages to others are content.
    thinks: the end of the usual header of reasoning. closings: see `ReasoningMarkup`, with tools;
    the last one is also that without.
    """

    name: str
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    reasoning: re.Pattern[str]
    calls: re.Pattern[str]
    signs: tuple[str, ...]
    thinks: str
    closings: tuple[str, ...]

    @property
    def spec(self) -> ReasoningParserSpec:
        """The specification for the engine. No one text parts reasoning from what follows it."""
        visible = (*self.heads, *self.tails, _MESSAGE)
        ends = (*self.heads, *self.tails)
        markup = ReasoningMarkup((self.thinks,), ends, self.closings[-1:], True, self.closings)
        return ReasoningParserSpec(self.name, partial(ChannelScanner, self), visible, markup=markup)


class ChannelScanner:
    """The `OutputParser` of channels.

    Messages to a tool may be passed on with their markup, for a tool parser to read. Text without
    a header is content, and so is a header that is cut off.
    """

    def __init__(self, channels: Channels, prompt: str):
        self._channels = channels
        self._reader = Reader()
        self._markers = markers(*channels.heads, *channels.tails)
        self._steps = self._run(prompt.rpartition(_REPLY)[2] if _REPLY in prompt else "")

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`."""
        return self._reader.advance(self._steps, text, last)

    def _run(self, begun: str) -> Steps[None]:
        """Read messages. begun: the beginning of the reply that the prompt holds."""
        reader = self._reader
        head, message, _ = begun.partition(_MESSAGE)
        try:
            if not message:
                head += yield from reader.until(_MESSAGE) if begun else self._head()
            while True:
                to_tool = bool(self._channels.calls.search(head))
                if to_tool:
                    reader.pass_on(reader.at)
                elif head:
                    reader.drop()
                thought = not to_tool and self._channels.reasoning.search(head) is not None
                yield from self._message(Thought if thought else Content, to_tool)
                if reader.last and reader.at == len(reader.buffer):
                    break
                head = yield from self._head()
        except Broken:
            pass
        reader.pass_on(len(reader.buffer))

    def _head(self) -> Steps[str]:
        """Read a header; there is none before text without markup."""
        reader = self._reader
        yield from reader.space()
        first = yield from reader.maybe(*self._channels.heads, _MESSAGE, "to=")
        if not first or first == _MESSAGE:
            return first
        return first + (yield from reader.until(_MESSAGE))

    def _message(self, kind: type[Content] | type[Thought], to_tool: bool) -> Steps[None]:
        """Pass a message on, and read its end, which belongs to what a tool parser reads."""
        reader, tails = self._reader, self._channels.tails
        while True:
            found = self._markers.search(reader.buffer, reader.at, complete=reader.last)
            reader.at = len(reader.buffer) if found is None else found.start()
            reader.pass_on(reader.at, kind)
            if found is not None and found[1]:
                if found[1] in tails:
                    reader.at = found.end()
                if to_tool:
                    reader.pass_on(reader.at)
                reader.drop()
                return
            if reader.last:
                return
            yield


BLOCKS = (
    Block("gemma4", ("<|channel>thought",), ("<channel|>",), ("<channel|>",), anywhere=True),
    Block(
        "cohere",
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        ("<|START_THINKING|>",),
        anywhere=True,
        dropped=(
            "<|START_RESPONSE|>",
            "<|END_RESPONSE|>",
            "<|START_TEXT|>",
            "<|END_TEXT|>",
        ),
    ),
    Block("magistral", ("[THINK]",), ("[/THINK]",), ("[THINK]",), anywhere=True),
    Block(
        "granite",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        ("Here is my thought process:", "Here's my thought process:"),
    ),
    Block(
        "kimi-k3",
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        ("<|open|>think<|sep|>", "<|end_of_msg|>"),
        anywhere=True,
        dropped=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
        ),
    ),
    Block("think-tokens", ("<|think:start|>",), ("<|think:end|>",), ("<|think:start|>",)),
    Block("seed", ("<seed:think>",), ("</seed:think>",), ("<seed:think>",)),
    Block("longcat", ("<longcat_think>",), ("</longcat_think>",), ("<longcat_think>",)),
    Block("think", ("<think>",), ("</think>",), ("<think>", "</think>"), closing="\n</think>\n\n"),
)
"""The families by their markers; the last is that of DeepSeek R1, Qwen 3, GLM and many more."""

CHANNELS = (
    Channels(
        "harmony",
        ("<|start|>", "<|channel|>"),
        ("<|end|>", "<|return|>", "<|call|>"),
        re.compile(r"<\|channel\|>\s*analysis\b"),
        re.compile(r"\bto="),
        ("<|constrain|>",),
        "<|channel|>analysis<|message|>",
        ("<|end|><|start|>assistant", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ),
    Channels(
        "muse",
        ("<|start|>",),
        ("<|eom|>", "<|eot|>"),
        re.compile(r"\bto=self\b"),
        re.compile(r"\bto=(?!(?:self|user)\b)"),
        ("<atem:function_calls>", "to=self<|message|>"),
        "to=self<|message|>",
        ("<|eom|><|start|>assistant", "<|eom|><|start|>assistant to=user<|message|>"),
    ),
)
"""The families that write messages with headers: gpt-oss and Muse Glimmer."""


@hookimpl
def provide_reasoning_parser(name: str, model: ModelTraits) -> ReasoningParserSpec | None:
    """The family of this name; for `auto` the first whose markers the model knows."""
    for family in (*CHANNELS, *BLOCKS):
        known = name == "auto" and any(_knows(model, sign) for sign in family.signs)
        if known or name == family.name:
            return family.spec
    return None


def _knows(model: ModelTraits, text: str) -> bool:
    return text in model.template or text in model.tokens
