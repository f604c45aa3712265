"""Prefix questions: how much of a prompt a core has stored, from the question to the answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from budmlx.protocol import AskPrefix, PrefixAnswer


class PrefixQuestions:
    """The questions of one host, asked on any thread and answered on the host's.

    post: sends a message to the core.
    """

    def __init__(self, post: Callable[[AskPrefix], None]):
        self._post = post
        self._ids = itertools.count(1)
        self._open: dict[int, Future[int]] = {}

    def ask(self, namespace: str, keys: Sequence[int]) -> Future[int]:
        """How many of a prompt's tokens are in memory; 0 if the core ends before it answers.

        namespace, keys: as a row with this prompt has them.
        """
        number, answer = next(self._ids), Future[int]()
        self._open[number] = answer
        self._post(AskPrefix(number, namespace, list(keys)))
        return answer

    def answered(self, frame: PrefixAnswer) -> None:
        """Take an answer."""
        if (question := self._open.pop(frame.id, None)) is not None:
            _answer(question, frame.tokens)

    def gone(self) -> None:
        """The core has ended, and what it had stored is lost."""
        while self._open:
            _answer(self._open.popitem()[1], 0)


def _answer(question: Future[int], tokens: int) -> None:
    if question.set_running_or_notify_cancel():
        question.set_result(tokens)
