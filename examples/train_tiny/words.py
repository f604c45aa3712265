"""Words, names and phrases: real lists and generated ones, split into training and held-out."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

LISTS = Path(__file__).parent / "lists"
REAL = (LISTS / "words.txt").read_text().split()
FIRST_NAMES = (LISTS / "names.txt").read_text().split()
PLACES = (LISTS / "places.txt").read_text().splitlines()
PLACE_WORDS = sorted({word for place in PLACES for word in place.split()})

ONSETS = (
    "b br c ch cl d dr f fl g gl gr h j k kl l m n p pl pr qu r s sh sk sl st t th tr v w x y z"
)
CODAS = "b ck d f g l ll m n nd ng nt p r rd rn s sh sk st t th v x z"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def held_out(key: str, *, exact: bool = False) -> bool:
    """One key in ten belongs to the evaluation sets and never to training.

    exact: keys that differ in case are different.
    """
    return zlib.crc32((key if exact else key.lower()).encode()) % 10 == 0


@dataclass
class Words:
    """Draws words of one split only, so that training never sees an evaluation word."""

    rng: Random
    evaluation: bool = False

    def accept(self, key: str, *, exact: bool = False) -> bool:
        return held_out(key, exact=exact) == self.evaluation

    def _draw(self, make: Callable[[], str]) -> str:
        while True:
            word = make()
            if self.accept(word):
                return word

    def _syllables(self) -> str:
        rng = self.rng
        parts = []
        for _ in range(rng.choice((1, 2, 2, 2, 3))):
            onset = rng.choice(ONSETS.split()) if rng.random() < 0.9 else ""
            coda = rng.choice(CODAS.split()) if rng.random() < 0.5 else ""
            parts.append(onset + rng.choice("aeiou") + coda)
        return "".join(parts)[:10]

    def _letters(self) -> str:
        return "".join(self.rng.choices(LETTERS, k=self.rng.randint(2, 6)))

    def invented(self) -> str:
        return self._draw(self._syllables)

    def compound(self, parts: list[str]) -> str:
        """Two known words in one, so that every piece of text is copied at some time."""
        return self._draw(
            lambda: self.rng.choice(parts) + self.rng.choice((*parts, self._syllables())).lower()
        )

    def real(self) -> str:
        return self._draw(lambda: self.rng.choice(REAL))

    def word(self) -> str:
        draw = self.rng.random()
        if draw < 0.45:
            return self.real()
        if draw < 0.6:
            return self.compound(REAL)
        return self.invented() if draw < 0.94 else self._draw(self._letters)

    def name(self) -> str:
        draw = self.rng.random()
        if draw < 0.3:
            return self._draw(lambda: self.rng.choice(FIRST_NAMES))
        if draw < 0.45:
            return self.compound(FIRST_NAMES)
        return self.invented().capitalize()

    def place(self) -> str:
        draw = self.rng.random()
        if draw < 0.35:
            return self._draw(lambda: self.rng.choice(PLACES))
        if draw < 0.5:
            return " ".join(self.compound(PLACE_WORDS) for _ in range(self.rng.choice((1, 1, 2))))
        count = self.rng.choice((1, 1, 2))
        return " ".join(self.invented().capitalize() for _ in range(count))

    def phrase(self, low: int = 1, high: int = 7) -> str:
        rng = self.rng
        words = [self.word() for _ in range(rng.randint(low, high))]
        style = rng.random()
        if style < 0.15:
            words[0] = words[0].capitalize()
        elif style < 0.25:
            words = [word.capitalize() for word in words]
        elif style < 0.32:
            words.insert(rng.randint(0, len(words)), str(rng.randint(0, 999)))
        text = " ".join(words)
        return text + rng.choice("!.?") if rng.random() < 0.08 else text
