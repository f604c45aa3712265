"""Shell code of the documentation, taken apart: which programs it calls, and with what."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_SEPARATORS = "\n;&|()"
_REDIRECTIONS = "<>"


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, without assignments, redirections and comments."""
    text = re.sub(r"(?m)(^|\s)#(\s.*)?$", "", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=_SEPARATORS + _REDIRECTIONS)
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, "\n"]:
        if set(token) <= set(_REDIRECTIONS):
            words.append("<")
        elif set(token) <= set(_SEPARATORS):
            yield from _command(words)
            words = []
        else:
            words.append(token)
    yield from _command(words)


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    while "<" in words:
        place = words.index("<")
        words = words[:place] + words[place + 2 :]
    if words:
        yield words


def bodies(text: str) -> list[str]:
    """What the curl commands of a script send."""
    return [
        words[words.index(flag) + 1]
        for words in commands(text)
        for flag in ("-d", "--data")
        if words[0] == "curl" and flag in words
    ]
