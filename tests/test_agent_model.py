"""The scripted model says its script, turn by turn, and finds its own replies in its cache."""

from __future__ import annotations

import json

from budmlx import Engine
from tests.agent_model import agent_model, calling, thinking

LOOK = thinking("I will look.", calling("look", {"place": "here", "deep": True}))
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_a_script() -> None:
    path = agent_model({"look": [LOOK, "There is a cat."], "wait": ["Yes.", "No."]})
    with Engine.load(str(path)) as engine:
        assert engine.info.context_length == 65_536
        assert engine.chat("What?", temperature=0).text == "Hello."
        messages: list[object] = [{"role": "user", "content": "please script look; now"}]
        for temperature in (0, 1):
            done = engine.chat(messages, tools=[TOOL], temperature=temperature)
            assert done.reasoning == "I will look."
            [call] = done.tool_calls
            assert json.loads(call.arguments) == {"place": "here", "deep": True}
        messages += [
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": done.reasoning,
                "tool_calls": [
                    {"id": call.id, "function": {"name": "look", "arguments": call.arguments}}
                ],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "A cat. " * 500},
        ]
        answer = engine.chat(messages, tools=[TOOL])
        assert answer.text == "There is a cat."
        computed = answer.usage.prompt_tokens - answer.usage.cached_tokens
        messages += [{"role": "assistant", "content": answer.text}]
        after = engine.chat([*messages, {"role": "user", "content": "And?"}], tools=[TOOL])
        assert after.text == "That is all."
        assert after.usage.prompt_tokens - after.usage.cached_tokens < 100 < computed
        other = engine.chat([*messages, {"role": "user", "content": "script wait;"}])
        assert other.text == "Yes."
