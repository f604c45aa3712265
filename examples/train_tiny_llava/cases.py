"""Held-out questions: of each skill, pictures and wordings drawn from seeds that training lacks."""

import base64
import io
import re
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image
from questions import KINDS
from scenes import some_scene
from tiny import Message, Words, answer_text, assistant, evaluation, vary

FIRST_SEED = 900_000_000  # far beyond what any training reaches
# skill: (kind of question, numbers of shapes to choose from, what the exact answers look like)
VISION = {
    "one object": ("describe", (1,), ".*"),
    "two objects": ("describe", (2,), ".*"),
    "counting to four": ("count", (1, 2, 3, 4), r"There (is|are) [1-4] (shape|object|thing)s?\."),
    "colour of a shape": ("colour", (1, 2, 3), "The .*"),
    "shape of a colour": ("shape", (1, 2, 3), "The .*"),
    "counting shapes of a kind": (
        "count",
        (1, 2, 3, 4),
        r"There (is|are) [0-4] (?!(shape|object|thing)s?\.).*",
    ),
    "what is not there": ("colour", (1, 2, 3), "There is no .*"),
    "yes or no": ("there", (1, 2, 3), ".*"),
    "left or right": ("side", (2,), ".*"),
    "three or four": ("describe", (3, 4), ".*"),
    "second picture": ("describe", (1, 2), ".*"),
}
TEXT = ("greeting", "capitals", "arithmetic", "repeat", "memory")
BARRED = ("one object", "two objects", "counting to four", "colour of a shape", "greeting",
          "capitals")  # fmt: skip
SKILLS = (*VISION, *TEXT)


@dataclass
class Case:
    """A conversation that ends with a question, the picture in each part, and the answer."""

    skill: str
    messages: list[Message]
    answer: str

    @property
    def question(self) -> str:
        content = self.messages[-1]["content"]
        return content if isinstance(content, str) else next(p["text"] for p in content[::-1]
                                                             if p["type"] == "text")  # fmt: skip


def shown(rng: Random, picture: Image.Image, text: str) -> Message:
    """A user's message with a picture before or after the text."""
    parts: list[dict[str, Any]] = [
        {"type": "image", "image": picture},
        {"type": "text", "text": text},
    ]
    return {"role": "user", "content": parts if rng.random() < 0.5 else parts[::-1]}


def vision_case(skill: str, seed: int) -> Case:
    kind, numbers, wanted = VISION[skill]
    words = Words(Random(seed), evaluation=True)

    def turn() -> tuple[Message, str]:
        while True:
            scene = some_scene(words.rng, words.rng.choice(numbers), ordered=kind != "count")
            asked = KINDS[kind][0](words, scene)
            if asked and re.fullmatch(wanted, asked[1]):
                return shown(words.rng, scene.picture, vary(words, asked[0])), asked[1]

    messages: list[Message] = []
    if skill == "second picture":
        before, answer = turn()
        messages = [before, assistant(answer)]
    question, answer = turn()
    return Case(skill, [*messages, question], answer)


def cases(skill: str, count: int) -> list[Case]:
    first = FIRST_SEED + 100_000 * SKILLS.index(skill)
    if skill in VISION:
        return [vision_case(skill, first + index) for index in range(count)]
    return [Case(skill, s.messages[:-1], answer_text(s.messages[-1]))
            for s in evaluation(first, skill, count)]  # fmt: skip


def as_json(case: Case) -> dict[str, Any]:
    """A case of one message for a file, its picture as a PNG in base64."""
    parts = []
    for part in case.messages[-1]["content"]:
        if part["type"] == "image":
            buffer = io.BytesIO()
            part["image"].save(buffer, "PNG", optimize=True)
            part = {"type": "image", "png": base64.b64encode(buffer.getvalue()).decode()}
        parts.append(part)
    return {"skill": case.skill, "content": parts, "answer": case.answer}
