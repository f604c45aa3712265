"""Texts whose vectors are wanted: which of them the next pass computes."""

from __future__ import annotations

import heapq
from bisect import bisect_right, insort
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from budmlx.core.batch.plan import Embed, Plan, Result
from budmlx.core.schedule.prefill import LEAST_REST, SLACK, WHOLE
from budmlx.core.schedule.step_report import StepReport
from budmlx.protocol import EmbedRequest

# A text shares a pass with one that is this much longer: the part of its length, beside `SLACK`.
PADDED = 4

Fits = Callable[[int], bool]
"""Whether a text of so many tokens can be computed beside the rows at work."""


@dataclass(eq=False, slots=True)
class _Request:
    """Texts of one request. left: those that wait, as (tokens, number), the shortest first.

    solo: a pass of it failed, so that it shares none with others.
    """

    id: int
    owner: str
    background: bool
    lengths: list[int]
    left: list[tuple[int, int]]
    started: bool = False
    solo: bool = False

    @property
    def turn(self) -> tuple[bool, str]:
        """Who takes turns: an owner in a class."""
        return self.background, self.owner


@dataclass(frozen=True, slots=True)
class _Part:
    """A text of which some passes compute parts. computed: tokens so far."""

    request: _Request
    number: int
    computed: int = 0

    @property
    def left(self) -> int:
        return self.request.lengths[self.number] - self.computed


class TextQueue:
    """The requests for vectors, whose texts share passes with others of like length.

    Owners take turns, and texts of the background come after all others. Of an owner the oldest
    request goes first, its longest text before others; shorter ones of any request fill the pass.
    A text that is longer than a pass may be is computed in parts, one text at a time; with `whole`
    it is not.

    report: hears which requests begin and fail. slack: tokens of padding that cost a pass next to
    nothing.
    requests: all that wait or are computed, by id, for others to read. lengths: tokens of the text
    that is computed in parts, as of a group of one row.
    """

    def __init__(self, report: StepReport, whole: bool, slack: int):
        self._report = report
        self._whole = whole
        self._slack = max(slack, SLACK)
        self.requests: dict[int, _Request] = {}
        self.lengths: list[list[int]] = []
        self._turns: list[tuple[bool, str]] = []  # class and owner, the next ones first
        self._part: _Part | None = None
        self._chosen: list[tuple[int, int]] = []

    def add(self, request: EmbedRequest, longest: int) -> bool:
        """Queue the texts of a request, if memory holds them; returns whether it does.

        longest: tokens of the longest text that it holds.
        """
        lengths = [len(text) for text in request.texts]
        if max(lengths) > longest:
            self._report.too_long(request.id, max(lengths), longest)
            return False
        left = sorted((length, number) for number, length in enumerate(lengths))
        own = _Request(request.id, request.owner, request.background, lengths, left)
        if not self.requests:  # it is the next one, and its pass may take long
            self._note_start([own])
        self.requests[request.id] = own
        if own.turn not in self._turns:
            self._turns.append(own.turn)
        return True

    @property
    def interactive(self) -> bool:
        """Whether any text is not of the background."""
        return not all(background for background, _ in self._turns)

    @property
    def background(self) -> bool:
        """Whether any text is of the background."""
        return any(background for background, _ in self._turns)

    def remove(self, request_id: int) -> list[int]:
        """Forget a request; returns its id if it was there."""
        request = self.requests.pop(request_id, None)
        if request is None:
            return []
        if self._part is not None and self._part.request is request:
            self._set_part(None)
        if all(other.turn != request.turn for other in self.requests.values()):
            self._turns.remove(request.turn)
        return [request_id]

    def plans(self, budget: int, fits: Fits) -> Generator[Plan, None, int]:
        """Passes of at most `budget` tokens; returns how many they computed.

        The result of each is to be given to `take` before the next one is asked for.
        """
        done = 0
        while done < budget and (embed := self._next(budget - done, fits)) is not None:
            lengths = [self.requests[i].lengths[number] for i, number in embed.texts]
            tokens = embed.tokens or len(lengths) * max(lengths)
            yield Plan(embed=embed)
            done += tokens
            if LEAST_REST * (budget - done) < budget:
                break
        return done

    def take(self, result: Result) -> list[int]:
        """Process a result; returns the requests that are done with.

        Those of a pass that raised go on alone; one that was alone fails.
        """
        chosen, self._chosen = self._chosen, []
        ids = sorted({request_id for request_id, _ in chosen})
        done = [vector.id for vector in result.vectors if vector.last]
        if result.condemned or (ids and ids in result.faults):
            self._put_back(chosen)
            guilty = [request_id for request_id in ids if self.requests[request_id].solo]
            for request_id in ids:
                self.requests[request_id].solo = True
            for request_id in guilty:
                self._report.raised(request_id)
            done += guilty
        return [request_id for each in done for request_id in self.remove(each)]

    def _put_back(self, chosen: Sequence[tuple[int, int]]) -> None:
        """Let texts wait again, and the one that is computed in parts."""
        if (part := self._part) is not None:
            chosen = list({*chosen, (part.request.id, part.number)})
        self._set_part(None)
        for request_id, number in chosen:
            request = self.requests[request_id]
            insort(request.left, (request.lengths[number], number))

    def _next(self, budget: int, fits: Fits) -> Embed | None:
        """The next pass, by the owner whose turn it is, or the next one that has any.

        Background texts have none while there are others.
        """
        background = not self.interactive
        turns = [turn for turn in self._turns if turn[0] == background]
        if self._part is not None and self._part.request.turn not in turns:
            # What is under way ends first if others need parts, too.
            turns.append(self._part.request.turn)
        for turn in turns:
            embed = self._pass_of(turn, budget, fits)
            if embed is not None:
                self._turns.remove(turn)
                self._turns.append(turn)
                self._chosen = list(embed.texts)
                self._note_start([self.requests[request_id] for request_id, _ in embed.texts])
                return embed
        return None

    def _pass_of(self, turn: tuple[bool, str], budget: int, fits: Fits) -> Embed | None:
        if self._part is not None and self._part.request.turn == turn:
            return self._advance(self._part, budget)
        own = (each for each in self.requests.values() if each.turn == turn and each.left)
        request = next(own, None)
        if request is None:
            return None
        most = max(budget, WHOLE)
        longest, number = request.left[-1]
        if longest > most and not self._whole:
            if self._part is None and fits(longest):
                request.left.pop()
                return self._advance(_Part(request, number), budget)
            # Another text is under way; those that need no parts go on beside it.
            longest = most
        if not fits(longest):
            return None
        batch = self._batch(request, longest, most)
        return Embed(batch) if batch else None

    def _advance(self, part: _Part, budget: int) -> Embed:
        count = part.left if part.left <= max(budget, WHOLE) else budget
        left = part.left - count
        after = _Part(part.request, part.number, part.computed + count)
        self._set_part(after if left else None)
        return Embed([(part.request.id, part.number)], count)

    def _set_part(self, part: _Part | None) -> None:
        self._part = part
        self.lengths = [] if part is None else [[part.request.lengths[part.number]]]

    def _batch(self, leader: _Request, longest: int, budget: int) -> list[tuple[int, int]]:
        """Take the longest texts of at most `longest` tokens, and others that are nearly as long.

        The first is the leader's; with it all fill one pass of `budget` tokens.
        """
        first = bisect_right(leader.left, (longest, len(leader.lengths))) - 1
        if first < 0:
            return []
        length, number = leader.left.pop(first)
        batch = [(leader.id, number)]
        least = length - length // PADDED - self._slack
        others = [leader] if leader.solo else self._sharing(leader)
        taken: list[tuple[_Request, tuple[int, int]]] = []
        for request, text in _longest_first(others, length):
            if text[0] < least or length * (len(batch) + 1) > budget:
                break
            taken.append((request, text))
            batch.append((request.id, text[1]))
        for request, text in taken:
            request.left.remove(text)
        return batch

    def _sharing(self, leader: _Request) -> list[_Request]:
        requests = [each for each in self.requests.values() if not each.solo]
        return [each for each in requests if each.background == leader.background]

    def _note_start(self, requests: Iterable[_Request]) -> None:
        for request in requests:
            if not request.started:
                request.started = True
                self._report.began(request.id)


def _longest_first(
    requests: Iterable[_Request], most: int
) -> Iterator[tuple[_Request, tuple[int, int]]]:
    """The texts of requests that have at most so many tokens, the longest first."""

    def descending(request: _Request) -> Iterator[tuple[int, int, _Request, tuple[int, int]]]:
        end = bisect_right(request.left, (most, len(request.lengths)))
        for text in reversed(request.left[:end]):
            yield -text[0], request.id, request, text

    merged = heapq.merge(*map(descending, requests), key=lambda each: each[:2])
    return ((request, text) for _, _, request, text in merged)
