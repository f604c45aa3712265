"""The chat template's text, written in Python for speed, with the spans to learn marked."""

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Sample:
    """A conversation that ends with the assistant's answer, and its `<think>` text if any."""

    skill: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    thought: str = ""
    thinking: bool = False


def call_text(call: dict[str, Any]) -> str:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return f'<tool_call>{{"name": "{call["name"]}", "arguments": {arguments}}}</tool_call>'


def answer_text(message: Message) -> str:
    calls = [call_text(call["function"]) for call in message.get("tool_calls", ())]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def prompt_head(system: str, tools: list[dict[str, Any]]) -> str:
    if not system and not tools:
        return ""
    text = system
    if tools:
        lines = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        text += ("\n\n" if system else "") + f"Tools:\n<tools>{lines}\n</tools>"
    return f"<|im_start|>system\n{text}<|im_end|>\n"


def render(sample: Sample) -> list[tuple[str, bool]]:
    """Pieces of text, each with whether the model learns to write it."""
    messages = sample.messages
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    pieces = [(prompt_head(system, sample.tools), False)]
    for index, message in enumerate(messages[1:] if system else messages):
        role, content = message["role"], message["content"]
        if role != "assistant":
            body = f"<tool_response>{content}</tool_response>" if role == "tool" else content
            pieces.append((f"<|im_start|>{role}\n{body}<|im_end|>\n", False))
            continue
        last = index == len(messages) - bool(system) - 1
        pieces.append(("<|im_start|>assistant\n", False))
        if last and sample.thinking:
            pieces.append(("<think>\n", False))
            pieces.append((f"{sample.thought}\n</think>\n\n", True))
        pieces.append((answer_text(message) + "<|im_end|>", True))
        pieces.append(("\n", False))
    return pieces
