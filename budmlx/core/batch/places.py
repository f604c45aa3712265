"""Places: where the rows of a batch stand that do not end together, and what their tokens see."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


class Places:
    """Numbers of the rows of a batch, the same for all layers.

    Row i holds `held[i]` tokens, in caches of all tokens from place `starts[i]` on; both are
    numbers of the host, so that taking tokens back changes a number and copies nothing.
    offset: [rows], the tokens before the pass that was begun last. positions, written: [rows,
    tokens], which tokens of their rows those of the pass are, and the places that they take.
    span: places in use with that pass. longest: most tokens of a row with it.
    """

    def __init__(self, starts: Sequence[int], held: Sequence[int]):
        self.starts = list(starts)
        self.held = list(held)
        self.offset = mx.array(self.held)
        self.positions = self.written = mx.array([])
        self.span = self.longest = 0
        self._masks: dict[tuple[int | None, int], mx.array] = {}

    @property
    def end(self) -> int:
        """The first place that no row has reached."""
        return max(start + held for start, held in zip(self.starts, self.held, strict=True))

    def begin(self, count: int) -> None:
        """Prepare a forward pass in which every row takes `count` tokens."""
        self.span = self.end + count
        self.longest = max(self.held) + count
        self.offset = mx.array(self.held)
        self.positions = self.offset[:, None] + mx.arange(count)
        self.written = self.positions + mx.array(self.starts)[:, None]
        self._masks.clear()

    def mask(self, window: int | None) -> mx.array:
        """Bool [rows, 1, tokens, places]: what the tokens of the pass attend to.

        window: tokens that each sees, itself included; None for all.
        """
        if (window, 0) not in self._masks:
            left = mx.array(self.starts)[:, None, None, None]
            places, own = mx.arange(self.span), self.written[:, None, :, None]
            mask = (places <= own) & (places >= left)
            self._masks[window, 0] = mask if window is None else mask & (places > own - window)
        return self._masks[window, 0]

    def ring_mask(self, window: int, size: int, used: int) -> mx.array:
        """The same for rings of `size` places, of which `used` exist; see `Ring`."""
        if (window, size) not in self._masks:
            newest, own = self.positions[:, -1:], self.positions[:, None, :, None]
            tokens = newest - (newest - mx.arange(used)) % size
            tokens = tokens[:, None, None, :]
            mask = (tokens >= 0) & (tokens <= own) & (tokens > own - window)
            self._masks[window, size] = mask
        return self._masks[window, size]
