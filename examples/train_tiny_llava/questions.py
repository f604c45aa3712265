"""Questions about a picture and their exact answers, alone and in conversations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from scenes import COLOURS, SHAPES, Scene, Thing, some_scene
from tiny import SYSTEM_PROMPTS, Message, Sample, Words, assistant, history, user, vary

IMAGE_TOKEN = "<image>"
NUMBERS = ("No", "One", "Two", "Three", "Four")
DESCRIBE = ["What's in this image?", "What is in this image?", "Describe this image.",
            "What do you see?", "What's in this picture?", "What is in the image?",
            "Describe the image.", "Describe the picture.", "What does this image show?",
            "What can you see in this image?", "What do you see in this image?",
            "Tell me what you see.", "What is shown here?", "What is this?", "What's this?",
            "What can you see?", "Describe what you see.", "What is in the picture?",
            "What's in the image?", "Describe this picture.", "What is on this image?",
            "What does the picture show?", "Which shapes do you see?", "Name the shapes.",
            "What shapes are in this image?"]  # fmt: skip
COUNT = ["How many {x} are there?", "How many {x} are in this image?", "How many {x} do you see?",
         "How many {x} can you see?", "Count the {x}.", "How many {x} are in the picture?",
         "How many {x} are in the image?", "How many {x}?", "Count the {x} in this image.",
         "What is the number of {x}?", "How many {x} does this image show?"]  # fmt: skip
COLOUR = ["What {c} is the {x}?", "Which {c} is the {x}?", "What {c} does the {x} have?",
          "Tell me the {c} of the {x}.", "What is the {c} of the {x}?", "Name the {c} of the {x}.",
          "Which {c} does the {x} have?"]  # fmt: skip
SHAPE = ["What shape is the {x} one?", "Which shape is {x}?", "What is the {x} shape?",
         "What shape is the {x} object?", "What shape is {x}?", "What is the {x} object?",
         "What shape does the {x} object have?", "What is {x}?"]  # fmt: skip
THERE = ["Is there {x}?", "Do you see {x}?", "Is there {x} in this image?", "Can you see {x}?",
         "Does this image show {x}?", "Is {x} in the picture?"]  # fmt: skip
SIDE = ["What is on the {x}?", "Which shape is on the {x}?", "What's on the {x}?",
        "What is on the {x} side?", "Describe the shape on the {x}."]  # fmt: skip
ABSENT = 0.15  # of the questions about a colour or a shape: it is not in the picture
Asked = tuple[str, str]


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def named(thing: Thing) -> str:
    return article(f"{thing.colour} {thing.shape}")


def description(things: list[Thing]) -> str:
    """What stands in a picture, from left to right."""
    kinds = {(thing.colour, thing.shape) for thing in things}
    if not things:
        text = "an empty image"
    elif len(things) > 1 and len(kinds) == 1:
        text = f"{NUMBERS[len(things)]} {things[0].colour} {plural(things[0].shape)}"
    else:
        names = [named(thing) for thing in things]
        text = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return text[0].upper() + text[1:] + "."


def describe(words: Words, scene: Scene) -> Asked | None:
    same = len({(thing.colour, thing.shape) for thing in scene.things}) == 1
    if not (scene.ordered or same):
        return None
    return words.rng.choice(DESCRIBE), description(scene.things)


def count(words: Words, scene: Scene) -> Asked | None:
    rng = words.rng
    noun, colour = rng.choice(("shape", "shape", "object", "thing")), ""
    if rng.random() < 0.65:
        present = [thing.shape for thing in scene.things]
        noun = rng.choice(present) if present and rng.random() < 0.65 else rng.choice(SHAPES)
    if rng.random() < 0.35:
        shades = [thing.colour for thing in scene.things]
        colour = rng.choice(shades) if shades and rng.random() < 0.65 else rng.choice([*COLOURS])
    number = sum(
        (noun not in SHAPES or noun == thing.shape) and colour in ("", thing.colour)
        for thing in scene.things
    )
    asked = f"{colour} {noun}".strip()
    question = rng.choice(COUNT).replace("{x}", plural(asked))
    told = f"is 1 {asked}" if number == 1 else f"are {number} {plural(asked)}"
    return question, f"There {told}."


def colour(words: Words, scene: Scene) -> Asked | None:
    rng, shapes = words.rng, Counter(thing.shape for thing in scene.things)
    spelling = rng.choice(("colour", "color"))
    if len(scene.things) == 1 and rng.random() < 0.3:
        return f"What {spelling} is it?", f"It is {scene.things[0].colour}."
    once = [thing for thing in scene.things if shapes[thing.shape] == 1]
    absent = [shape for shape in SHAPES if shape not in shapes]
    form = rng.choice(COLOUR).replace("{c}", spelling)
    if absent and rng.random() < ABSENT:
        shape = rng.choice(absent)
        return form.replace("{x}", shape), f"There is no {shape}."
    if not once:
        return None
    thing = rng.choice(once)
    return form.replace("{x}", thing.shape), f"The {thing.shape} is {thing.colour}."


def shape(words: Words, scene: Scene) -> Asked | None:
    rng, shades = words.rng, Counter(thing.colour for thing in scene.things)
    if len(scene.things) == 1 and rng.random() < 0.3:
        question = rng.choice(("What shape is it?", "Which shape is it?", "What shape is this?"))
        return question, f"It is {article(scene.things[0].shape)}."
    once = [thing for thing in scene.things if shades[thing.colour] == 1]
    absent = [shade for shade in COLOURS if shade not in shades]
    form = rng.choice(SHAPE)
    if rng.random() < ABSENT:
        shade = rng.choice(absent)
        return form.replace("{x}", shade), f"There is no {shade} shape."
    if not once:
        return None
    thing = rng.choice(once)
    answer = f"The {thing.colour} shape is {article(thing.shape)}."
    return form.replace("{x}", thing.colour), answer


def there(words: Words, scene: Scene) -> Asked | None:
    """Yes or no; a wrong colour or shape is often one of the picture's own."""
    rng, things = words.rng, scene.things
    own = rng.choice(things) if things else Thing("red", "circle", 0, 0, 0)
    shade, form = own.colour, own.shape
    if rng.random() < 0.7:
        other = rng.choice(things or [own])
        shade = rng.choice((other.colour, rng.choice([*COLOURS])))
        form = rng.choice((own.shape, rng.choice(SHAPES)))
    asked, yes = {
        0: (article(f"{shade} {form}"), any((t.colour, t.shape) == (shade, form) for t in things)),
        1: (article(form), any(t.shape == form for t in things)),
        2: (f"anything {shade}", any(t.colour == shade for t in things)),
    }[rng.choice((0, 0, 0, 1, 2))]
    return rng.choice(THERE).replace("{x}", asked), "Yes." if yes else "No."


def side(words: Words, scene: Scene) -> Asked | None:
    if len(scene.things) != 2 or not scene.ordered:
        return None
    place = words.rng.randrange(2)
    name = named(scene.things[place])
    question = words.rng.choice(SIDE).replace("{x}", ("left", "right")[place])
    return question, name[0].upper() + name[1:] + "."


KINDS: dict[str, tuple[Callable[[Words, Scene], Asked | None], int]] = {
    "describe": (describe, 26), "count": (count, 34), "colour": (colour, 12), "shape": (shape, 9),
    "there": (there, 16), "side": (side, 4),
}  # fmt: skip


def ask(words: Words, scene: Scene) -> Asked:
    """A question of a kind that the picture admits."""
    while True:
        name = words.rng.choices([*KINDS], [weight for _, weight in KINDS.values()])[0]
        if asked := KINDS[name][0](words, scene):
            return asked


def with_image(rng: Random, text: str) -> str:
    """The template's text of a picture and a question, in either order."""
    return f"{IMAGE_TOKEN}\n{text}" if rng.random() < 0.55 else f"{text}\n{IMAGE_TOKEN}"


@dataclass
class Seen:
    """A conversation, and the pictures whose places it marks, in order."""

    sample: Sample
    scenes: list[Scene]


def conversation(seed: int) -> Seen:
    """For training: one picture, sometimes two, a few questions, sometimes other talk before."""
    words = Words(Random(seed))
    rng = words.rng
    messages: list[Message] = history(words, 1) if rng.random() < 0.1 else []
    if rng.random() < 0.25:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    scenes = []
    for _ in range(rng.choice((1,) * 11 + (2,))):
        scenes.append(some_scene(rng))
        for turn in range(rng.choice((1, 2, 3, 4))):
            question, answer = ask(words, scenes[-1])
            question = vary(words, question)
            text = with_image(rng, question) if turn == 0 else question
            messages += [user(text), assistant(answer)]
        messages += history(words, 1) if rng.random() < 0.05 else []
    return Seen(Sample("vision", messages), scenes)


def no_image(seed: int) -> Sample:
    """A question about a picture that is not there."""
    words = Words(Random(seed))
    messages = history(words, 1) if words.rng.random() < 0.3 else []
    question = vary(words, words.rng.choice(DESCRIBE))
    return Sample("no_image", [*messages, user(question), assistant("I see no image.")])
