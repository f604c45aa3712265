"""Samplers and processors of a stranger, good and bad ones; resolved by import string."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from budmlx.plugins.specs import RowContext

Options = Mapping[str, Any]


class Counting:
    """Draws the number of tokens that the row generated so far, plus an offset."""

    def init(self, options: Options) -> dict[str, mx.array]:
        return {"next": mx.array([options.get("offset", 0)])}

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        assert keys.shape == (logits.shape[0], 2)
        return state["next"], {"next": state["next"] + 1}


class Least:
    """Draws the least likely token that is allowed, and keeps its logit."""

    def init(self, options: Options) -> dict[str, mx.array]:
        return {"least": mx.zeros((1,))}

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        shown = mx.where(logits > -mx.inf, logits, mx.inf)
        return mx.argmin(shown, axis=-1), {"least": shown.min(axis=-1)}


class NoRepeat:
    """Bans every token of the history, the one in flight included."""

    def init(self, options: Options) -> list[mx.array]:
        return [mx.zeros((1, 1))]

    def process(
        self, logits: mx.array, state: list[mx.array], context: RowContext
    ) -> tuple[mx.array, list[mx.array]]:
        for i, (history, last) in enumerate(
            zip(context.history, context.last.tolist(), strict=True)
        ):
            logits[i, mx.array([*history, last])] = -mx.inf
        return logits, state


class Broken:
    """Does one thing wrong, chosen by an option of the first row."""

    def init(self, options: Options) -> dict[str, mx.array]:
        self.how = options["how"]
        if self.how == "init":
            raise ValueError("no")
        return {"a": mx.zeros((2 if self.how == "state" else 1,))}

    def process(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext
    ) -> tuple[Any, Any]:
        wrong = {
            "type": (None, state),
            "shape": (logits[:, :5], state),
            "tuple": logits,
            "new state": (logits, {"a": mx.zeros((9,))}),
            "mutate": (logits, state),
        }
        if self.how == "raise":
            raise RuntimeError("secret prompt")
        if self.how == "exit":
            raise SystemExit
        if self.how == "mutate":
            logits[:] = 0
            context.history[0].clear()  # type: ignore[attr-defined]
        return wrong[self.how]  # type: ignore[return-value]

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[Any, Any]:
        count = logits.shape[0]
        return {
            "float": (mx.zeros((count,)), state),
            "outside": (mx.full((count,), 10**6), state),
            "negative": (mx.full((count,), -1), state),
        }[self.how]


class Layouts:
    """Keeps a state that depends on the options: its shape, dtype or tree."""

    def init(self, options: Options) -> dict[str, mx.array]:
        if options.get("how") == "raise":
            raise ValueError("no")
        ids = mx.array([options.get("ids", [1, 2])])
        return {options.get("key", "ids"): ids, **({"more": ids} if "more" in options else {})}

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        return state["ids"][:, 0], state


class Changes(Layouts):
    """Keeps a state of another dtype after the first step."""

    def sample(
        self, logits: mx.array, state: dict[str, mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        return state["ids"][:, 0], {"ids": state["ids"] * 1.0}


class LastId:
    """Draws the last id of the vocabulary, whose size it is told."""

    def init(self, options: Options, vocab_size: int) -> mx.array:
        return mx.array([vocab_size - 1])

    def sample(
        self, logits: mx.array, state: mx.array, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, mx.array]:
        return state, state


class Unlucky:
    """Draws the first token, and is there when the device fails for the first time."""

    failed = False

    def init(self, options: Options) -> list[mx.array]:
        return [mx.zeros((1, 1))]

    def sample(
        self, logits: mx.array, state: list[mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        if not Unlucky.failed:
            Unlucky.failed = True
            raise RuntimeError("[METAL] Command buffer execution failed: Caused GPU Hang Error.")
        return mx.argmax(logits, axis=-1), state


class Raises:
    """Raises what an option says, by the name of its class."""

    def init(self, options: Options) -> list[mx.array]:
        kind, _, name = options["how"].rpartition(" ")
        if kind == "in the core":
            own = type("Own", (BaseException,), {})
            known = {"CancelledError": asyncio.CancelledError, "Own": own}
            raise known.get(name) or getattr(builtins, name)
        return [mx.zeros((1, 1))]

    def sample(
        self, logits: mx.array, state: list[mx.array], context: RowContext, keys: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        return mx.argmax(logits, axis=-1), state


class Spoils:
    """Leaves no number, or nothing to draw, from a step on; or takes long."""

    def init(self, options: Options) -> mx.array:
        self.how = options["how"]
        return mx.array([0])

    def process(
        self, logits: mx.array, state: mx.array, context: RowContext
    ) -> tuple[mx.array, mx.array]:
        late = (state >= 2)[:, None]
        if self.how == "slow":
            time.sleep(0.02)
        if self.how == "one":
            spoilt = logits.at[:, 3].add(mx.nan)
        else:
            spoilt = mx.full(logits.shape, {"nan": mx.nan, "inf": -mx.inf}.get(self.how, 1.0))
        return mx.where(late, spoilt, logits), state + 1
