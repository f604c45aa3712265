"""Stop strings: found in text while it arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection


class StopScanner:
    """Finds the first of several strings in text that comes in pieces (Aho-Corasick).

    State n stands for the n-th known prefix of a stop string: the longest one that the text
    now ends with. held: that end of the text, which must not be shown yet. found: the one that
    ended the text; empty before.
    """

    def __init__(self, stops: Collection[str]):
        self.held = self.found = ""
        self._state = 0
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._match = [0]  # Length of the longest stop string that ends in this state.
        for stop in stops:
            self._add(stop)
        self._fall = self._fallbacks()

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._match.append(0)
            state = self._next[state][character]
        self._match[state] = len(stop)

    def _fallbacks(self) -> list[int]:
        """For each state the longest proper suffix of it that is a state too."""
        fall = [0] * len(self._next)
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                other = fall[state]
                while other and character not in self._next[other]:
                    other = fall[other]
                fall[child] = self._next[other].get(character, 0)
                self._match[child] = self._match[child] or self._match[fall[child]]
                queue.append(child)
        return fall

    def scan(self, text: str) -> tuple[str, bool]:
        """Text that is safe to show, and whether a stop string ended it."""
        seen = len(self.held)
        text = self.held + text
        state = self._state
        for position in range(seen, len(text)):
            character = text[position]
            while state and character not in self._next[state]:
                state = self._fall[state]
            state = self._next[state].get(character, 0)
            if self._match[state]:
                self.held = ""
                begin = position + 1 - self._match[state]
                self.found = text[begin : position + 1]
                return text[:begin], True
        self._state = state
        safe = len(text) - self._depth[state]
        self.held = text[safe:]
        return text[:safe], False
