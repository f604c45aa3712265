"""Checkpoints, optimizers, rates and the progress display, shared by both stages of training."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

Drawn = TypeVar("Drawn")


def optimizers(
    model: nn.Module, muon_rate: float, adam_rate: float, slow: dict[str, float] | None = None
) -> list[Optimizer]:
    """Muon for the layers' matrices, a share for each core, and AdamW for the rest.

    slow: prefixes of names, and the share of the rates that their weights learn with.
    """
    named = dict(model.named_parameters())
    inner = [name for name, p in named.items() if ".layers." in name and p.ndim == 2]
    rest = [name for name in named if name not in set(inner)]

    def groups(names: list[str], rate: float) -> list[dict[str, object]]:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name in names:
            shares = [share for prefix, share in (slow or {}).items() if name.startswith(prefix)]
            by_rate.setdefault(rate * (shares or [1.0])[0], []).append(named[name])
        return [{"params": params, "lr": top, "top": top} for top, params in by_rate.items()]

    cores = os.cpu_count() or 1
    opts: list[Optimizer] = [
        torch.optim.Muon(groups(share, muon_rate), lr=muon_rate, weight_decay=0.05, momentum=0.95,
                         adjust_lr_fn="match_rms_adamw")
        for share in (inner[core::cores] for core in range(cores)) if share
    ]  # fmt: skip
    opts.append(
        torch.optim.AdamW(groups(rest, adam_rate), lr=adam_rate, betas=(0.9, 0.98), weight_decay=0)
    )
    return opts


def set_rate(opts: list[Optimizer], step: int, last: int, decay: float = 0.5) -> None:
    """Warm-up, a plateau, then a straight line to almost zero."""
    share = min(1.0, (step + 1) / 50, (last - step) / (decay * last) + 0.005)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = group["top"] * share


def checkpoint(path: Path, step: int, model: nn.Module, opts: list[Optimizer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "model": model.state_dict(), "opts": [o.state_dict() for o in opts]}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load(path: Path, model: nn.Module, opts: list[Optimizer]) -> int:
    """The number of steps already done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for opt, saved in zip(opts, state["opts"], strict=True):
        opt.load_state_dict(saved)
    return int(state["step"])


def end_with_parent() -> None:
    """Lets a drawing process end when training was killed."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    Thread(target=wait, daemon=True).start()


def drawn_ahead(
    draw: Callable[[int], list[Drawn]], size: int, first: int, last: int
) -> Iterator[Drawn]:
    """The steps first to last of chunks of `size` steps, drawn in a process of their own.

    A chunk depends only on its number, so that a resumed run sees what it would have seen.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as drawer:
        numbers = range(first // size, -(-last // size))
        ahead = [drawer.submit(draw, number) for number in numbers[:1]]
        for number in numbers:
            chunk = ahead.pop().result()
            ahead += [drawer.submit(draw, number + 1)] if number + 1 in numbers else []
            for step, drawn in enumerate(chunk, number * size):
                if first <= step < last:
                    yield drawn


class Progress:
    """Prints every twenty steps: running means of the loss and the share right, and the speed."""

    def __init__(self, first: int, last: int, unit: str):
        self.step, self.last, self.unit = first, last, unit
        self.began, self.amount = time.time(), 0
        self.loss = self.right = 0.0
        self.blend = 0.0

    def note(self, loss: float, right: float, amount: int) -> None:
        self.loss = self.loss * self.blend + loss * (1 - self.blend)
        self.right = self.right * self.blend + right * (1 - self.blend)
        self.blend = 0.95
        self.step += 1
        self.amount += amount
        if self.step % 20 == 0:
            speed = self.amount / (time.time() - self.began)
            print(f"step {self.step:5d}/{self.last}  loss {self.loss:.4f}  right {self.right:.4f}"
                  f"  {speed:,.0f} {self.unit}/s", flush=True)  # fmt: skip
