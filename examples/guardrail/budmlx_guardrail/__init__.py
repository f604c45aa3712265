"""A guardrail for budmlx: a reply ends before the first word that is on a list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from budmlx import hookimpl
from budmlx.plugins.specs import EndText, OutputFilterFactory

WORD = re.compile(r"\w+")
WORDS = Path(__file__).with_name("words.txt")


class WordFilter:
    """Shows whole words only, until one comes that is on the list."""

    def __init__(self, words: frozenset[str]):
        self._words = words
        self._held = ""

    def push(self, text: str, last: bool) -> str | EndText:
        """What may be shown of the new text. The beginning of a word waits for its end."""
        text = self._held + text
        end = len(text)
        while not last and end and WORD.match(text[end - 1]):
            end -= 1
        shown, self._held = text[:end], text[end:]
        for match in WORD.finditer(shown):
            if match[0].casefold() in self._words:
                return EndText(shown[: match.start()])
        return shown


class Guardrail:
    """The plugin. words: in any case; they are looked for as whole words."""

    def __init__(self, words: Iterable[str]):
        self._words = frozenset(word.casefold() for word in words)

    @hookimpl
    def add_output_filters(self) -> list[OutputFilterFactory]:
        """Filter the text of every choice."""
        return [partial(WordFilter, self._words)]


def read_words(path: Path) -> list[str]:
    """The words of a file with one in each line; lines that begin with `#` are skipped."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


plugin = Guardrail(read_words(Path(os.environ.get("GUARDRAIL_WORDS", WORDS))))
