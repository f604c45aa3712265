"""What differs from run to run in replies is blanked here, and streams are put into one form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

BLANKS = (
    (r'"id":( ?)"(chatcmpl|cmpl|call|req)[-_][0-9A-Za-z]+"', r'"id":\1"\2-*"'),
    (
        r'"(created|queue_time|prompt_time|completion_time|total_time)":( ?)[0-9.e-]+',
        r'"\1":\g<2>0',
    ),
    (r'"(limit|weights|prefix_cache|active|unused|peak)":( ?)\d+', r'"\1":\g<2>0'),
    (r'(?<="numbers":)\{"[^{}]*\{[^{}]*\}\}', "{}"),
    # Fields that lists of models and readiness got later.
    (
        r',"root":"[^"]*","state":"loaded","max_model_len":\d+,"speculation":"\w+"'
        r',"residence":\{[^{}]*\},"type":"model","display_name":"[^"]*"'
        r',"created_at":"[^"]*","max_input_tokens":\d+,"max_tokens":\d+',
        "",
    ),
    (r',"problems":\{\}', ""),
    (r',"has_more":false,"first_id":"[^"]*","last_id":"[^"]*"', ""),
    (r'"system_fingerprint":"[^"]*"', '"system_fingerprint":"*"'),
    (r"(?<=retry in )\d+(?= s)", "0"),
)
HEADER_BLANKS = ((r"^req-[0-9a-f]{32}$", "req-*"),)
# They follow from the body or from the HTTP library.
OTHER_HEADERS = {"Date", "Content-Length", "Transfer-Encoding", "Connection"}
FLOAT = re.compile(r"(?<=[:,\[])-?\d+\.\d+(?:[eE][-+]?\d+)?")
TOLERANCE = 2e-4
UNTOLD = {"function", "arguments"}


def blanked(text: str) -> str:
    """A body without what differs from run to run; numbers have 4 decimals."""
    for pattern, blank in BLANKS:
        text = re.sub(pattern, blank, text)
    return FLOAT.sub(lambda match: repr(round(float(match[0]), 4)), text)


def blanked_headers(headers: dict[str, str]) -> dict[str, str]:
    """The headers that say something, sorted; of a pause only that there is one."""
    kept = {name: value for name, value in sorted(headers.items()) if name not in OTHER_HEADERS}
    for name, value in kept.items():
        for pattern, blank in HEADER_BLANKS:
            kept[name] = re.sub(pattern, blank, value)
    if "Retry-After" in kept:
        kept["Retry-After"] = "0" if kept["Retry-After"].isdigit() else "bad"
    return kept


def differs(found: str, recorded: str) -> bool:
    """Whether two blanked bodies differ in more than the rounding of numbers."""
    if FLOAT.sub("#", found) != FLOAT.sub("#", recorded):
        return True
    pairs = zip(FLOAT.findall(found), FLOAT.findall(recorded), strict=True)
    return any(abs(float(one) - float(other)) > TOLERANCE for one, other in pairs)


def joined(stream: str) -> str:
    """A stream of events with the pieces of each choice in one, choice by choice.

    How many tokens a piece holds depends on how fast the client and the model are. Events that
    are no piece are kept byte for byte; those without a choice come last.
    """
    groups: dict[int, list[str | dict[str, Any]]] = {}
    for block in stream.split("\n\n")[:-1]:
        raw: str | dict[str, Any] = block
        number = 1000
        if block.startswith("data: {"):
            event = json.loads(block.removeprefix("data: "))
            if choices := event.get("choices"):
                number = choices[0]["index"]
                if choices[0]["finish_reason"] is None:
                    raw = event
        group = groups.setdefault(number, [])
        if not (group and isinstance(raw, dict) and _continue(group[-1], raw)):
            group.append(raw)
    ordered = [event for number in sorted(groups) for event in groups[number]]
    return "".join(f"{block}\n\n" for block in map(_block, ordered))


def _block(event: str | dict[str, Any]) -> str:
    if isinstance(event, str):
        return event
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}"


def _continue(last: str | dict[str, Any], event: dict[str, Any]) -> bool:
    """Append an event to the one before it, if it goes on with the same text or call."""
    if isinstance(last, str):
        return False
    (one,), (two,) = last["choices"], event["choices"]
    if last | {"choices": 0} != event | {"choices": 0} or one.keys() != two.keys():
        return False
    texts = list(_texts(one)), list(_texts(two))
    names = [[name for _, name in text] for text in texts]
    if "role" in one.get("delta", {}) or not names[0] or names[0] != names[1]:
        return False
    here, there = _call(one), _call(two)
    if there.keys() > {"index"} or here.get("index") != there.get("index"):
        return False
    for (holder, name), (other, _) in zip(*texts, strict=True):
        holder[name] += other[name]
    for name, values in (one["logprobs"] or {}).items():
        values += two["logprobs"][name]
    return True


def _call(choice: dict[str, Any]) -> dict[str, Any]:
    """What a piece says of a call beside its arguments; nothing if there is none."""
    calls: list[dict[str, Any]] = choice.get("delta", {}).get("tool_calls", [{}])
    function = {key: calls[0]["function"][key] for key in calls[0].get("function", ())}
    return {key: value for key, value in {**calls[0], **function}.items() if key not in UNTOLD}


def _texts(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the text of a piece stands: the object, and its key."""
    if "text" in choice:
        yield choice, "text"
        return
    delta = choice["delta"]
    for name in ("content", "reasoning", "reasoning_content"):
        if name in delta:
            yield delta, name
    for call in delta.get("tool_calls", ()):
        yield call["function"], "arguments"
