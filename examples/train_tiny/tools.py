"""Tool skills: generated functions, questions that name their values, results to report."""

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from words import Words

NO_TOOL = "I do not have a tool for that."


@dataclass
class Parameter:
    name: str
    kind: str
    choices: list[str] = field(default_factory=list)
    required: bool = True

    def schema(self, rng: Random) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string" if self.kind == "enum" else self.kind}
        if self.kind == "enum":
            schema["enum"] = self.choices
        elif rng.random() < 0.4:
            schema["description"] = f"The {self.name.replace('_', ' ')}"
        return schema

    def value(self, words: Words) -> Any:
        rng = words.rng
        if self.kind == "enum":
            return rng.choice(self.choices)
        if self.kind == "boolean":
            return rng.random() < 0.5
        if self.kind == "integer":
            return rng.choice((rng.randint(0, 20), rng.randint(0, 9999)))
        if self.kind == "number":
            return rng.choice((rng.randint(0, 999), round(rng.uniform(0, 99), 1)))
        draw = rng.random()
        if draw < 0.6:
            return (words.place, words.name)[draw < 0.3]()
        if draw < 0.9:
            return " ".join(words.word() for _ in range(rng.randint(1, 3)))
        return f"{''.join(rng.choices('ABCDEFGHKLMNPRSTUVXYZ', k=2))}-{rng.randint(10, 999)}"


@dataclass
class Tool:
    verb: str
    noun: str
    name: str
    description: str
    parameters: list[Parameter]

    def schema(self, rng: Random) -> dict[str, Any]:
        properties = {p.name: p.schema(rng) for p in self.parameters}
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if rng.random() < 0.85:
            parameters["required"] = [p.name for p in self.parameters if p.required]
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": parameters}}


def make_parameter(words: Words, taken: set[str]) -> Parameter:
    rng = words.rng
    while True:
        name = words.word() if rng.random() < 0.7 else f"{words.word()}_{words.word()}"
        if name not in taken:
            break
    taken.add(name)
    kind = rng.choice(("string", "string", "string", "integer", "number", "enum", "enum"))
    kind = "boolean" if rng.random() < 0.04 else kind
    choices = list({words.word() for _ in range(rng.randint(2, 4))}) if kind == "enum" else []
    return Parameter(name, kind, sorted(choices))


def make_tool(words: Words) -> Tool:
    rng = words.rng
    verb = rng.choice(("get", "find", "show")) if rng.random() < 0.3 else words.word()
    nouns = [words.word() for _ in range(rng.choice((1, 1, 1, 2)))]
    parts = [verb, *nouns]
    name = "_".join(parts)
    if rng.random() < 0.2:
        name = parts[0] + "".join(part.capitalize() for part in parts[1:])
    taken: set[str] = set()
    parameters = [make_parameter(words, taken) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    if len(parameters) > 1 and rng.random() < 0.4:
        parameters[-1].required = False
    noun = " ".join(nouns)
    about = verb.capitalize()
    description = rng.choice(
        (f"{about} the {noun}", f"{about} {noun}", "",
         f"{about} the {noun} for a {parameters[0].name}")
    )  # fmt: skip
    return Tool(verb, noun, name, description, parameters)


def mention(rng: Random, name: str, value: Any) -> str:
    name = name.replace("_", " ") if rng.random() < 0.7 else name
    shown = json.dumps(value) if isinstance(value, bool) else str(value)
    if isinstance(value, str) and rng.random() < 0.2:
        shown = f'"{shown}"'
    return rng.choice(("{n} {v}", "{n} {v}", "{n} = {v}", "{n}: {v}", "{v} as {n}")).replace(
        "{n}", name).replace("{v}", shown)  # fmt: skip


def ask(words: Words, tool: Tool, arguments: dict[str, Any]) -> str:
    rng = words.rng
    values = list(arguments.items())
    if len(values) == 1 and isinstance(values[0][1], str) and rng.random() < 0.7:
        form = rng.choice(
            ("What is the {n} in {v}?", "What's the {n} of {v}?", "{V} the {n} for {v}.",
             "{V} the {n} of {v}", "Please {w} the {n} for {v}.", "Can you {w} the {n} for {v}?",
             "I need the {n} for {v}.", "{V} {n} {v}", "{V} {n} in {v}", "What is the {n} for {v}?")
            if tool.verb in ("get", "find", "show")
            else ("{V} the {n} for {v}.", "{V} the {n} of {v}", "Please {w} the {n} for {v}.",
                  "Can you {w} the {n} for {v}?", "{V} {n} {v}", "{V} the {n} in {v}.")
        )  # fmt: skip
        rest = str(values[0][1])
    else:
        form = rng.choice(
            ("{V} the {n} with {v}.", "{V} the {n} with {v}", "Please {w} the {n} with {v}.",
             "Can you {w} the {n} with {v}?", "{V} {n}: {v}", "I want to {w} the {n} with {v}.",
             "Use {f} with {v}.", "Call {f} with {v}")
        )  # fmt: skip
        rng.shuffle(values)
        facts = [mention(rng, name, value) for name, value in values]
        rest = facts[0] if len(facts) == 1 else ", ".join(facts[:-1]) + " and " + facts[-1]
    slots = {"V": tool.verb.capitalize(), "w": tool.verb, "n": tool.noun, "f": tool.name, "v": rest}
    for slot, value in slots.items():
        form = form.replace("{" + slot + "}", value)
    return form[0].lower() + form[1:] if rng.random() < 0.2 else form


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def make_tools(words: Words) -> list[Tool]:
    tools: list[Tool] = []
    count = words.rng.choice((1, 2, 2, 3))
    while len(tools) < count:
        tool = make_tool(words)
        if all(tool.name != other.name and tool.noun != other.noun for other in tools):
            tools.append(tool)
    return tools


def tool_question(words: Words, tools: list[Tool]) -> tuple[str, list[dict[str, Any]]]:
    """A question about one of the tools and the call that it needs."""
    tool = words.rng.choice(tools)
    chosen = [p for p in tool.parameters if p.required or words.rng.random() < 0.5]
    arguments = {p.name: p.value(words) for p in chosen}
    return ask(words, tool, arguments), [call(tool.name, arguments)]


def parallel_question(words: Words) -> tuple[list[dict[str, Any]], str, list[dict[str, Any]]]:
    rng = words.rng
    tool = make_tool(words)
    tool.parameters = [Parameter(words.word(), "string")]
    places = [words.place() for _ in range(2)]
    form = rng.choice(
        ("{V} the {n} for {a} and {b}.", "{V} the {n} of {a} and {b}",
         "What is the {n} in {a} and {b}?", "Please {w} the {n} for {a} and {b}.")
    )  # fmt: skip
    slots = {"V": tool.verb.capitalize(), "w": tool.verb, "n": tool.noun, "a": places[0],
             "b": places[1]}  # fmt: skip
    for slot, value in slots.items():
        form = form.replace("{" + slot + "}", value)
    calls = [call(tool.name, {tool.parameters[0].name: place}) for place in places]
    return [tool.schema(rng)], form, calls


def result_and_answer(words: Words) -> tuple[str, str]:
    """A tool's result and the sentence that reports it."""
    rng = words.rng
    if rng.random() < 0.2:
        result = words.phrase(1, 5).rstrip(".!?")
        return result, f"The result is: {result}"
    if rng.random() < 0.08:
        problem = f"{words.word()} {words.word()}"
        return json.dumps({"error": problem}), f"The tool reported an error: {problem}"
    values: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        key = words.word() if rng.random() < 0.7 else f"{words.word()}_{words.word()}"
        kind = Parameter(key, rng.choice(("string", "string", "integer", "number")))
        values[key] = kind.value(words)
    if rng.random() < 0.15 and not words.evaluation:
        sky = rng.choice(("sunny", "cloudy", "rainy", "windy", words.word()))
        values = {"temperature": rng.randint(-20, 40), "condition": sky}
    facts = [f"the {key.replace('_', ' ')} is {value}" for key, value in values.items()]
    told = facts[0] if len(facts) == 1 else ", ".join(facts[:-1]) + " and " + facts[-1]
    return json.dumps(values), told[0].upper() + told[1:] + "."
