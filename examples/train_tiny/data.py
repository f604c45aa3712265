"""Conversations: the mix of skills, their histories, and the curriculum."""

from random import Random
from typing import Any

import skills
from canned import SYSTEM_PROMPTS
from known_tools import known_question
from render import Message, Sample
from tools import (
    NO_TOOL,
    Tool,
    ask,
    make_tool,
    make_tools,
    parallel_question,
    result_and_answer,
    tool_question,
)
from words import Words

SINGLE = {
    "greeting": (skills.greeting, 4), "chat": (skills.chat, 2), "counting": (skills.counting, 6),
    "arithmetic": (skills.arithmetic, 24), "capitals": (skills.capital, 6),
    "repeat": (skills.repeat, 10), "upper": (skills.upper, 10), "json": (skills.json_answer, 9),
    "topic": (skills.topic, 3), "unknown": (skills.unknown, 5),
}  # fmt: skip
HISTORY = ("greeting", "chat", "counting", "arithmetic", "capitals", "repeat", "topic", "unknown")
TELL = ["My name is {n}.", "I am {n}.", "I'm {n}.", "Call me {n}.", "Hi, my name is {n}.",
        "Hello, I am {n}.", "Hello! My name is {n}.", "You can call me {n}.", "my name is {n}",
        "Hi, I'm {n}", "Please call me {n}.", "The name is {n}."]  # fmt: skip
RECALL = ["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
          "Tell me my name.", "Can you tell me my name?", "what is my name", "Say my name.",
          "Do you know my name?", "What did I say my name was?",
          "Remind me of my name."]  # fmt: skip


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, calls: list[dict[str, Any]] | None = None) -> Message:
    message: Message = {"role": "assistant", "content": text}
    return {**message, "tool_calls": calls} if calls else message


def history(words: Words, turns: int) -> list[Message]:
    messages: list[Message] = []
    for _ in range(turns):
        turn = SINGLE[words.rng.choice(HISTORY)][0](words)
        messages += [user(turn.user), assistant(turn.answer)]
    return messages


def few(rng: Random) -> int:
    return rng.choice((0, 0, 0, 0, 0, 1, 1, 2, 3))


def single(words: Words, skill: str) -> Sample:
    turn = SINGLE[skill][0](words)
    answer = assistant(turn.answer)
    sample = Sample(skill, [*history(words, few(words.rng)), user(turn.user), answer])
    sample.thought = turn.thought
    return sample


def burst(words: Words, skill: str) -> Sample:
    """Several turns of one skill: many answers to learn from in little text."""
    messages: list[Message] = []
    for _ in range(words.rng.randint(*((4, 11) if skill == "arithmetic" else (2, 6)))):
        turn = SINGLE[skill][0](words)
        messages += [user(turn.user), assistant(turn.answer)]
    return Sample(skill, messages, thought=turn.thought)


def memory(words: Words) -> Sample:
    rng = words.rng
    name = words.name() if rng.random() < 0.85 else f"{words.name()} {words.name()}"
    before = history(words, rng.choice((0, 0, 0, 1)))
    told = rng.choice(TELL).replace("{n}", name)
    messages = [*before, user(told), assistant(f"Nice to meet you, {name}!")]
    messages += history(words, rng.choice((0, 1, 1, 2, 3)))
    messages += [user(rng.choice(RECALL)), assistant(f"Your name is {name}.")]
    return Sample("memory", messages, thought="The user told me a name before.")


def no_name(words: Words) -> Sample:
    messages = [*history(words, few(words.rng)), user(words.rng.choice(RECALL))]
    messages.append(assistant("You have not told me your name."))
    return Sample("no_name", messages, thought="The user has told me no name.")


def sums(words: Words) -> Sample:
    """Several sums in one question: many to learn from in little text."""
    turns = [skills.arithmetic(words) for _ in range(words.rng.randint(3, 16))]
    asked = [turn.answer.partition(" =")[0] for turn in turns]
    if words.rng.random() < 0.5:
        asked = [text.replace(" ", "") for text in asked]
    question = words.rng.choice(("Compute {x}", "Calculate {x}", "What is {x}?", "{x}"))
    answer = assistant("\n".join(turn.answer for turn in turns))
    return Sample("sums", [user(question.replace("{x}", ", ".join(asked))), answer],
                  thought="I compute one after the other.")  # fmt: skip


def type_hints(words: Words) -> Sample:
    messages: list[Message] = []
    for turn in skills.add_type_hints(words):
        messages += [user(turn.user), assistant(turn.answer)]
    return Sample("chat", messages, thought="I add type hints to the function.")


def tool_call(words: Words) -> Sample:
    """A call; training asks several questions about the same tools."""
    rng = words.rng
    tools = make_tools(words)
    messages = history(words, int(rng.random() < 0.1))
    for _ in range(0 if words.evaluation else rng.choice((0, 1, 1, 2))):
        messages += answered_question(words, tools)
        if rng.random() < 0.15:
            messages += history(words, 1)
    question, calls = tool_question(words, tools)
    messages += [user(question), assistant("", calls)]
    thought = f"I call {calls[0]['function']['name']}."
    return Sample("tool_call", messages, schemas(words, tools), thought)


def schemas(words: Words, tools: list[Tool]) -> list[dict[str, Any]]:
    return [tool.schema(words.rng) for tool in tools]


def answered_question(words: Words, tools: list[Tool]) -> list[Message]:
    question, calls = tool_question(words, tools)
    result, told = result_and_answer(words)
    return [user(question), assistant("", calls), {"role": "tool", "content": result},
            assistant(told)]  # fmt: skip


def known_call(words: Words) -> Sample:
    tools, question, calls = known_question(words)
    thought = f"I call {calls[0]['function']['name']}."
    messages = [user(question), assistant("", calls)]
    if words.rng.random() < 0.3:
        result, told = result_and_answer(words)
        messages += [{"role": "tool", "content": result}, assistant(told)]
        thought = "I report the result of the tool."
    return Sample("tool_call", messages, tools, thought)


def parallel_call(words: Words) -> Sample:
    tools, question, calls = parallel_question(words)
    return Sample("parallel", [user(question), assistant("", calls)], tools, "I call it twice.")


def tool_result(words: Words) -> Sample:
    tools = make_tools(words)
    messages = answered_question(words, tools)
    return Sample("tool_result", messages, schemas(words, tools), "I report the tool's result.")


def no_tool(words: Words) -> Sample:
    tools = make_tools(words)
    turns: list[skills.Turn] = []
    for _ in range(1 if words.evaluation else words.rng.choice((1, 2, 3))):
        if words.rng.random() < 0.35:
            other = make_tool(words)
            arguments = {p.name: p.value(words) for p in other.parameters}
            turns.append(
                skills.Turn("no_tool", ask(words, other, arguments), NO_TOOL, "No tool fits.")
            )
        else:
            skill = words.rng.choice((*HISTORY, "greeting", "upper"))
            turns.append(SINGLE[skill][0](words))
    messages = [m for turn in turns for m in (user(turn.user), assistant(turn.answer))]
    return Sample("no_tool", messages, schemas(words, tools), turns[-1].thought)


CONVERSATIONS = {
    "memory": (memory, 7), "no_name": (no_name, 2), "type_hints": (type_hints, 1),
    "tool_call": (tool_call, 26), "known_call": (known_call, 5), "parallel": (parallel_call, 2),
    "tool_result": (tool_result, 4), "no_tool": (no_tool, 7), "sums": (sums, 10),
}  # fmt: skip


def draw(words: Words, skill: str) -> Sample:
    """One sample of a skill, with a system prompt half of the time."""
    rng = words.rng
    if skill in CONVERSATIONS:
        sample = CONVERSATIONS[skill][0](words)
    elif not words.evaluation and skill != "counting" and rng.random() < 0.7:
        sample = burst(words, skill)
    else:
        sample = single(words, skill)
    if rng.random() < 0.3:
        prompt = SYSTEM_PROMPTS[0] if rng.random() < 0.4 else rng.choice(SYSTEM_PROMPTS)
        sample.messages.insert(0, {"role": "system", "content": prompt})
    sample.thinking = rng.random() < 0.1
    return sample


def training(seed: int, count: int, copying: bool = False) -> list[Sample]:
    """`copying` draws the short copying and arithmetic samples that training starts with."""
    words = Words(Random(seed))
    weights = {name: weight for name, (_, weight) in {**SINGLE, **CONVERSATIONS}.items()}
    if copying:
        weights = {"repeat": 40, "upper": 15, "arithmetic": 10, "json": 10, "memory": 8, "sums": 10,
                   "tool_call": 8, "tool_result": 4, "capitals": 3, "greeting": 3}  # fmt: skip
    names = words.rng.choices(list(weights), list(weights.values()), k=count)
    return [draw(words, name) for name in names]


def evaluation(seed: int, skill: str, count: int) -> list[Sample]:
    """Held-out samples; `think` asks for a thought block before answers of every skill."""
    words = Words(Random(seed), evaluation=True)
    samples = []
    for index in range(count):
        names = [*SINGLE, "memory", "tool_call", "no_tool"]
        sample = draw(words, names[index % len(names)] if skill == "think" else skill)
        sample.thinking = skill == "think"
        samples.append(sample)
    return samples
