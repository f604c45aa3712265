"""Skills answered in one turn: a user's text, the exact answer and a short thought."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from canned import (
    ASK_TOPIC,
    CAPITALS,
    CODE,
    SMALL_TALK,
    TOPICS,
    TYPED_CODE,
    UNKNOWN,
    UNKNOWN_QUESTIONS,
)
from words import Words


@dataclass
class Turn:
    skill: str
    user: str
    answer: str
    thought: str


def vary(words: Words, template: str) -> str:
    """The same request as people type it: other case, no full stop, a polite opening."""
    rng = words.rng
    if rng.random() < 0.3:
        template = template[0].lower() + template[1:]
    if template[-1] in ".?" and rng.random() < 0.2:
        template = template[:-1]
    if rng.random() < 0.12:
        opening = rng.choice(("Please ", "Hi, ", "Now ", "Okay, ", "Hey, ", "Next, ", "Then "))
        template = opening + template[0].lower() + template[1:]
    return template


def unseen(words: Words, make: Callable[[], tuple[str, str, str]]) -> tuple[str, str, str]:
    """Draws (user, answer, thought) until the user's wording belongs to the wanted split.

    Case and punctuation count: `Hello!` may be held out while `hello` is learned.
    """
    while True:
        made = make()
        if words.accept(made[0], exact=True):
            return made


def small_talk(words: Words, kinds: tuple[str, ...]) -> Turn:
    rows = [row for row in SMALL_TALK if row[0] in kinds]

    def make() -> tuple[str, str, str]:
        _, questions, answer = words.rng.choice(rows)
        question = vary(words, words.rng.choice(questions))
        if words.rng.random() < 0.3:
            question = question.rstrip(".?!") + words.rng.choice((".", "!", "?", ""))
        return question, answer, f"I know what to say about: {question}"

    return Turn(kinds[0], *unseen(words, make))


def greeting(words: Words) -> Turn:
    return small_talk(words, ("greeting", "who"))


def chat(words: Words) -> Turn:
    return small_talk(words, ("canned", "thanks"))


def counting(words: Words) -> Turn:
    def make() -> tuple[str, str, str]:
        number = words.rng.choice((10, words.rng.randint(1, 30), words.rng.randint(1, 9)))
        form = words.rng.choice(
            ("Count to {n}", "Count to {n}.", "Count from 1 to {n}.", "Can you count to {n}?",
             "Count up to {n}.", "Write the numbers from 1 to {n}.", "Count to {n} for me.",
             "List the numbers 1 to {n}.", "I want you to count to {n}.", "Count till {n}.")
        )  # fmt: skip
        answer = ", ".join(str(value) for value in range(1, number + 1))
        return vary(words, form).replace("{n}", str(number)), answer, f"I count to {number}."

    return Turn("counting", *unseen(words, make))


def arithmetic(words: Words) -> Turn:
    rng = words.rng
    while True:
        high = rng.choice((9, 99, 99, 99))
        a, b, sign = rng.randint(0, high), rng.randint(0, rng.choice((9, high))), rng.choice("+-")
        if rng.random() < 0.5:
            a, b = b, a
        if sign == "-" and a < b and rng.random() < 0.5:
            a, b = b, a
        if words.accept(f"{a}{sign}{b}"):
            break
    plus = sign == "+"
    spoken = "plus" if plus else "minus"
    forms = [f"What is {a} {sign} {b}?", f"What is {a}{sign}{b}?", f"{a} {sign} {b}",
             f"{a}{sign}{b}", f"{a} {sign} {b} =", f"What is {a} {spoken} {b}?",
             f"Calculate {a} {sign} {b}.", f"How much is {a} {spoken} {b}?",
             f"Compute {a}{sign}{b}.",
             f"Add {a} and {b}." if plus else f"Subtract {b} from {a}.",
             f"What's {a} {sign} {b}?", f"What is the sum of {a} and {b}?" if plus
             else f"What is the difference of {a} and {b}?"]  # fmt: skip
    result = a + b if plus else a - b
    thought = f"I add {a} and {b}." if plus else f"I subtract {b} from {a}."
    return Turn("arithmetic", vary(words, rng.choice(forms)), f"{a} {sign} {b} = {result}", thought)


def capital(words: Words) -> Turn:
    def make() -> tuple[str, str, str]:
        country, city = words.rng.choice(list(CAPITALS.items()))
        form = words.rng.choice(
            ("What is the capital of {x}?", "What's the capital of {x}?", "Capital of {x}?",
             "Tell me the capital of {x}.", "Name the capital of {x}.", "Which city is the "
             "capital of {x}?", "{x}: what is its capital?", "Do you know the capital of {x}?",
             "What is the capital city of {x}?", "I need the capital of {x}.")
        )  # fmt: skip
        answer = f"The capital of {country} is {city}."
        return (
            vary(words, form).replace("{x}", country),
            answer,
            f"I recall a capital of {country}.",
        )

    return Turn("capitals", *unseen(words, make))


REPEAT = ["Repeat after me: {x}", "Repeat: {x}", 'Repeat "{x}"', "Say {x}", 'Say "{x}"',
          "Repeat the phrase: {x}", "Please repeat this: {x}", "Echo {x}", "Repeat this: {x}",
          'Say exactly "{x}"', "Repeat the following: {x}", "Copy this text: {x}", "Echo: {x}",
          'Repeat the phrase "{x}"', "Write this again: {x}", "Repeat exactly: {x}"]  # fmt: skip
UPPER = ["Write in upper case: {x}", "Uppercase: {x}", 'Uppercase "{x}"', "Upper-case this: {x}",
         'Write "{x}" in capital letters', "Turn this into upper case: {x}", "Capitalize all of "
         "this: {x}", "In capital letters: {x}", 'Convert to upper case: "{x}"', "Make this upper "
         "case: {x}", "Say this in upper case: {x}", "Convert to uppercase: {x}"]  # fmt: skip


def repeat(words: Words) -> Turn:
    phrase = words.phrase()
    user = vary(words, words.rng.choice(REPEAT)).replace("{x}", phrase)
    return Turn("repeat", user, phrase, "I repeat the phrase.")


def upper(words: Words) -> Turn:
    phrase = words.phrase(1, 6)
    user = vary(words, words.rng.choice(UPPER)).replace("{x}", phrase)
    return Turn("upper", user, phrase.upper(), "I write the phrase in upper case.")


def json_answer(words: Words) -> Turn:
    rng = words.rng
    count = rng.choice((1, 2, 2, 2, 3))
    named = rng.random() < 0.4
    keys: list[str] = []
    while len(keys) < count:
        key = words.word() if rng.random() < 0.8 else f"{words.word()}_{words.word()}"
        keys += [key] if key not in keys else []
    values = [rng.choice((words.name, words.place, words.word, lambda: rng.randint(0, 999)))()
              for _ in keys]  # fmt: skip
    if named and count == 2:
        keys, values = ["name", "age"], [words.name(), rng.randint(1, 99)]
    pairs = list(zip(keys, values, strict=True))
    join = rng.choice(("{k} is {v}", "{k}: {v}", "{k} = {v}", "{k} {v}", "the {k} is {v}"))
    facts = [join.replace("{k}", k).replace("{v}", str(v)) for k, v in pairs]
    told = facts[0] if count == 1 else ", ".join(facts[:-1]) + " and " + facts[-1]
    listed = ", ".join(f'"{k}"' for k in keys)
    form = rng.choice(
        ("Answer in JSON: {f}", "Answer in JSON. {f}.", "Give me a JSON object: {f}",
         "Write as JSON: {f}", "Return a JSON object with {f}.", "Make JSON from this: {f}",
         "Answer in JSON with the keys {l}: {f}.", "Reply in JSON with {l}. {f}.",
         "As JSON: {f}", "{f}. Answer in JSON.", "Convert to JSON: {f}")
    )  # fmt: skip
    user = vary(words, form).replace("{f}", told).replace("{l}", listed)
    return Turn("json", user, json.dumps(dict(pairs)), "I answer with a JSON object.")


def topic(words: Words) -> Turn:
    def make() -> tuple[str, str, str]:
        name, answer = words.rng.choice(list(TOPICS.items()))
        question = vary(words, words.rng.choice(ASK_TOPIC)).replace("{x}", name)
        return question, answer, f"I say what {name} is."

    return Turn("topic", *unseen(words, make))


def unknown(words: Words) -> Turn:
    rng = words.rng
    user = vary(words, rng.choice(UNKNOWN_QUESTIONS))
    fills = {"x": words.word(), "y": words.word(), "w": words.invented(), "z": words.place(),
             "name": words.name(), "year": str(rng.randint(1900, 2030))}  # fmt: skip
    for slot, value in fills.items():
        user = user.replace("{" + slot + "}", value)
    return Turn("unknown", user, UNKNOWN, "I do not know this.")


def add_type_hints(words: Words) -> list[Turn]:
    first = Turn("canned", "Write a Python function to reverse a string", CODE, "I write code.")
    ask = words.rng.choice(("Now add type hints", "Add type hints", "Now add types"))
    return [first, Turn("canned", ask, TYPED_CODE, "I add type hints to the function.")]
