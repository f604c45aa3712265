"""Budgets of reasoning: which tokens a row must write once it has thought for long enough.

The core follows a row's tokens to force the closing ones, and the engine follows them to know
whether that happened. Both come to the same result, since nothing but the tokens counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec


class ReasoningBudget(msgspec.Struct, frozen=True, kw_only=True):
    """The most tokens of a row's reasoning, and how to recognise and to close it.

    begun: the prompt ends inside of reasoning. begins, ends: texts around a block of it.
    anywhere: a block may begin after other text; otherwise only at the start of the reply.
    closings: token ids that close a block: first, second and so on; the last one counts for all
    further blocks.
    texts: the text of every token that could be a part of `begins` or `ends`, or white space.
    """

    tokens: int
    begun: bool
    begins: list[str]
    ends: list[str]
    anywhere: bool
    closings: list[list[int]]
    texts: Mapping[int, str]


class ReasoningMeter:
    """A row's position in its budget.

    consumed: tokens that it has followed. cut: some reasoning was closed, as it was too long.
    """

    def __init__(self, budget: ReasoningBudget):
        self._budget = budget
        self._longest = max(map(len, (*budget.begins, *budget.ends)))
        self.reset()

    def reset(self) -> None:
        """Go back to the beginning; all of the row's tokens are followed again."""
        self.consumed = 0
        self.cut = False
        self._inside = self._budget.begun
        self._over = False
        self._spent = 0
        self._recent = ""
        self._cuts = 0
        self._closing: Sequence[int] = ()
        self._close_if_spent()

    def must_follow(self, position: int) -> bool:
        """Whether the token at `position` depends on tokens before it that were not followed."""
        if self._closing:
            return position >= self.consumed + len(self._closing)
        if self._over:
            return False
        left = self._budget.tokens - self._spent
        return position > self.consumed and position >= self.consumed + (
            left if self._inside else max(left, 0) + 1
        )

    def forced(self, position: int) -> int | None:
        """The id that must stand at `position`; None for any."""
        place = position - self.consumed
        return self._closing[place] if 0 <= place < len(self._closing) else None

    def follow(self, tokens: Iterable[int]) -> None:
        """Take the row's next tokens."""
        for token in tokens:
            self.consumed += 1
            if self._closing:
                self.cut = True
                self._closing = self._closing[1:]
                if not self._closing:
                    self._leave()
            elif not self._over:
                self._read(self._budget.texts.get(token))
                self._close_if_spent()

    def _read(self, text: str | None) -> None:
        budget = self._budget
        self._recent = "" if text is None else self._recent + text
        if self._inside:
            self._spent += 1
            if any(end in self._recent for end in budget.ends):
                self._leave()
        elif budget.anywhere:
            if any(begin in self._recent for begin in budget.begins):
                self._enter()
        elif text is None:
            self._over = True
        else:
            start = self._recent.lstrip()
            if any(start.startswith(begin) for begin in budget.begins):
                self._enter()
            elif not any(begin.startswith(start) for begin in budget.begins):
                self._over = True
            return
        self._recent = self._recent[-self._longest :]

    def _enter(self) -> None:
        self._inside, self._recent = True, ""

    def _leave(self) -> None:
        self._inside, self._recent = False, ""
        self._over = not self._budget.anywhere

    def _close_if_spent(self) -> None:
        budget = self._budget
        if self._inside and self._spent >= budget.tokens:
            self._closing = budget.closings[min(self._cuts, len(budget.closings) - 1)]
            self._cuts += 1
