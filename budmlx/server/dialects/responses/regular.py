"""Grammars as regular expressions, in which form they can be enforced within a JSON string.

Grammars whose rules contain themselves are no regular expressions in general. Where a rule begins
or ends with itself it is one all the same: a repetition. Elsewhere the rule is written out within
itself, as deep as there is room for: what matches is a text of the grammar still, and only texts
that nest deeper do not match.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from budmlx.engine.request.schemas import MAX_PATTERN
from budmlx.server.dialects.responses.lark import (
    Either,
    NotRegularError,
    Part,
    Repeated,
    Sequential,
    Terminal,
    Use,
    read_rules,
)

MAX_LENGTH = MAX_PATTERN - 16
"""Characters of a regular expression, with some around it; rules that many others use are written
many times."""
MOST_GROUPS = 80
"""Groups within groups; llguidance reads 250 of them, sequences and repetitions together."""
MOST_DEPTH = 128
MOST_PARTS = 200_000
"""Parts of rules that are written out, one after the other."""
CHARACTERS = 32
"""So many cost what a part does."""
START = "start"
TOO_LONG = "it is too long when its rules are written out"
TOO_DEEP = "its rules are nested too deep"
ENDLESS = "none of its texts ends"

_NO_GROUPS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|[^()]", re.DOTALL)

# Of a rule that was found to be {0}, by whether {1} comes after and before the rule itself.
_REPETITIONS = {
    (False, True): "(?:{1})*{0}",
    (True, False): "{0}(?:{1})*",
    (True, True): "{0}(?:(?:{1}){0})*",
}


class _TooLongError(Exception):
    """What is written out is too long."""


@dataclass(frozen=True, slots=True)
class RegularForm:
    """A regular expression all of whose texts are texts of a grammar.

    depth: of rules within rules, beyond which texts are left out; None if none are.
    """

    regex: str
    depth: int | None = None


def regular_form(grammar: str) -> RegularForm:
    """The regular expression of a grammar, as deep as there is room. Raises NotRegularError."""
    found, least, problem = None, 0, ENDLESS
    try:
        expansion = _Expansion(read_rules(grammar))
        nested = START in expansion.nesting
        for depth in range(1, MOST_DEPTH + 1 if nested else 2):
            regex = expansion.of(START, depth)
            if regex is None:
                continue
            if _groups(regex) > MOST_GROUPS:
                problem = TOO_DEEP
                break
            found, least = RegularForm(regex, depth if nested else None), least or depth
    except _TooLongError:
        problem = TOO_LONG
    except RecursionError:
        problem = TOO_DEEP
    # Where hardly any rule has room within itself, too many texts would be left out.
    if found is None or (found.depth is not None and found.depth < 2 * least):
        raise NotRegularError(problem)
    try:
        found.regex.encode("utf-8")
    except UnicodeEncodeError:
        raise NotRegularError("it has half a character") from None
    return found


def _groups(regex: str) -> int:
    """How many groups are within each other."""
    steps = (1 if each == "(" else -1 for each in _NO_GROUPS.sub("", regex))
    return max(accumulate(steps), default=0)


class _Expansion:
    """Writes parts of a grammar as regular expressions; None stands for what no text matches.

    nesting: the rules that contain themselves, or others that do.
    """

    def __init__(self, rules: Mapping[str, Either]):
        self._forms = {name: list(_forms(rule, name)) for name, rule in rules.items()}
        self.nesting = _nesting(self._forms)
        self._done: dict[tuple[str, int], str | None] = {}
        self._spent = 0

    def of(self, name: str, depth: int) -> str | None:
        """The regular expression of a rule. depth: of rules that may be within each other."""
        if name not in self._forms:
            raise NotRegularError(f"{name} is not defined")
        if name in self.nesting:
            if not depth:
                return None
            depth -= 1
        if (name, depth) not in self._done:
            text = self._done[name, depth] = self._rule(name, depth)
            self._spend(len(text or "") // CHARACTERS)
        return self._done[name, depth]

    def _spend(self, cost: int) -> None:
        self._spent += cost
        if self._spent > MOST_PARTS:
            raise _TooLongError

    def _rule(self, name: str, depth: int) -> str | None:
        kinds: defaultdict[tuple[bool, bool], list[str]] = defaultdict(list)
        for first, parts, last in self._forms[name]:
            if (text := self._sequence(parts, depth)) is not None:
                kinds[first, last].append(text)
        found = self._either(kinds[False, False])
        for kind, form in _REPETITIONS.items():
            if found is not None and (text := self._either(kinds[kind])) is not None:
                found = self._bounded(form.format(found, text))
        return found

    def _part(self, part: Part, depth: int) -> str | None:
        self._spend(1)
        match part:
            case Terminal(regex):
                return regex
            case Use(name):
                text = self.of(name, depth)
                return None if text is None else f"(?:{text})"
            case Sequential(parts):
                return self._sequence(parts, depth)
            case Either(parts):
                found = [self._part(each, depth) for each in parts]
                return self._either([each for each in found if each is not None])
        text = self._part(part.part, depth)
        if text is None:
            return "" if part.optional else None
        return f"(?:{text}){part.times}"

    def _sequence(self, parts: Sequence[Part], depth: int) -> str | None:
        found = []
        length = 0
        for part in parts:
            text = self._part(part, depth)
            if text is None:
                return None
            found.append(text)
            length += len(text)
            if length > MAX_LENGTH:
                raise _TooLongError
        return "".join(found)

    def _either(self, texts: Sequence[str]) -> str | None:
        if len(texts) < 2:
            return texts[0] if texts else None
        if sum(map(len, texts)) > MAX_LENGTH:
            raise _TooLongError
        return self._bounded(f"(?:{'|'.join(texts)})")

    def _bounded(self, text: str) -> str:
        if len(text) > MAX_LENGTH:
            raise _TooLongError
        return text


Form = tuple[bool, Sequence[Part], bool]


def _forms(rule: Either, name: str) -> Iterator[Form]:
    """The alternatives of a rule without the rule itself at their ends, and whether it was there:
    at the beginning, and at the end.
    """
    for part in rule.parts:
        assert isinstance(part, Sequential)
        for first, rest in _without(part.parts, Use(name), 0):
            for last, middle in _without(rest, Use(name), -1):
                # A rule that is nothing but itself adds nothing.
                if middle or first == last:
                    yield first, middle, last


def _without(
    parts: Sequence[Part], use: Use, place: Literal[0, -1]
) -> Iterator[tuple[bool, Sequence[Part]]]:
    """The parts without a use of a rule at an end, and whether it was there."""
    end = parts[place] if parts else None
    others = parts[1:] if place == 0 else parts[:-1]
    if end == use:
        yield True, others
    elif isinstance(end, Repeated) and end.times == "?" and _only(end.part) == use:
        yield True, others
        yield False, others
    else:
        yield False, parts


def _only(part: Part) -> Part:
    """What is in brackets, if it is one thing."""
    while isinstance(part, Either | Sequential) and len(part.parts) == 1:
        part = part.parts[0]
    return part


def _nesting(forms: Mapping[str, Sequence[Form]]) -> set[str]:
    """The rules that contain themselves, or others that do."""
    uses = {
        name: {used for _, parts, _ in alternatives for used in _used(parts)} & forms.keys()
        for name, alternatives in forms.items()
    }
    users: defaultdict[str, list[str]] = defaultdict(list)
    for name, used in uses.items():
        for each in used:
            users[each].append(name)
    ended = [name for name, used in uses.items() if not used]
    while ended:
        name = ended.pop()
        for user in users[name]:
            uses[user].discard(name)
            if not uses[user]:
                ended.append(user)
    return {name for name, used in uses.items() if used}


def _used(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Use):
            yield part.name
        elif isinstance(part, Repeated):
            yield from _used([part.part])
        elif isinstance(part, Either | Sequential):
            yield from _used(part.parts)
