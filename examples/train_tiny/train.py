"""Trains the tiny model on two CPU cores; resumes from the newest checkpoint.

python train.py --run runs/tiny
"""

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import training
from network import Network
from render import Sample, render
from shape import Shape
from tokenizer import build, factors, save
from tokenizers import Tokenizer

CHUNK = 100  # steps whose samples are drawn together, from a seed of their own
ROWS = 16  # conversations per step
PARTS = 3  # a step's conversations go through the network in parts of similar length
COPYING_CHUNKS = 5
MAX_LENGTH = 400
Row = tuple[np.ndarray, np.ndarray]


def tokenizer_of(run: Path) -> Tokenizer:
    path = run / "tokenizer" / "tokenizer.json"
    if not path.exists():
        samples = training(1, 20_000)
        save(
            build(["".join(text for text, _ in render(sample)) for sample in samples]), path.parent
        )
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, samples: list[Sample]) -> list[Row]:
    """(token ids, learned ids): the second holds -1 where nothing is to be learned."""
    pieces = [render(sample) for sample in samples]
    encoded = iter(tokenizer.encode_batch_fast([text for row in pieces for text, _ in row]))
    rows = []
    for row in pieces:
        ids: list[int] = []
        learned: list[int] = []
        for _, learn in row:
            part = next(encoded).ids
            ids += part
            learned += part if learn else [-1] * len(part)
        rows.append((np.array(ids), np.array(learned)))
    return [row for row in rows if len(row[0]) <= MAX_LENGTH]


def padded(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in rows) - 1
    inputs = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), -1, np.int64)
    for index, (ids, learned) in enumerate(rows):
        inputs[index, : len(ids) - 1] = ids[:-1]
        targets[index, : len(ids) - 1] = learned[1:]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def steps(tokenizer: Tokenizer, first: int, last: int) -> Iterator[list[Row]]:
    chunk = first // CHUNK
    while chunk * CHUNK < last:
        # a few more than needed: those that are too long are left out
        drawn = CHUNK * ROWS * 5 // 4
        samples = training(1000 + chunk, drawn, copying=chunk < COPYING_CHUNKS)
        rows = encode(tokenizer, samples)
        for step in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            start = (step % CHUNK) * ROWS
            if first <= step < last:
                yield sorted(rows[start : start + ROWS], key=lambda row: len(row[0]))
        chunk += 1


def rate(step: int, last: int, decay: float = 0.45) -> float:
    """Warm-up, a plateau, then a straight line to almost zero."""
    return min(1.0, (step + 1) / 50, (last - step) / (decay * last) + 0.005)


def optimizers(model: Network, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, a share for each core, and AdamW for the rest."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    cores = os.cpu_count() or 1
    shares = [matrices[core::cores] for core in range(cores)]
    return [
        *(torch.optim.Muon(share, lr=muon_rate, weight_decay=0.05, momentum=0.95,
                           adjust_lr_fn="match_rms_adamw") for share in shares if share),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]  # fmt: skip


def part_gradients(model: Network, rows: list[Row], count: int) -> tuple[list[Any], float, int]:
    loss, right = model(*padded(rows))
    return (
        list(torch.autograd.grad(loss / count, list(model.parameters()))),
        loss.item(),
        int(right),
    )


def learn(model: Network, rows: list[Row], workers: ThreadPoolExecutor) -> tuple[float, float, int]:
    """One step's gradients; the mean loss, the share of right tokens and the tokens read.

    Each part runs on one thread: busy neighbours then cost a thread its turn, not every operation.
    """
    count = sum(int((learned[1:] >= 0).sum()) for _, learned in rows)
    bounds = part_bounds([len(ids) for ids, _ in rows])
    parts = [rows[start:end] for start, end in itertools.pairwise(bounds)]
    jobs = [workers.submit(part_gradients, model, part, count) for part in reversed(parts)]
    results = [job.result() for job in jobs]
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = sum(gradients[index] for gradients, _, _ in results)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    loss, right = (sum(result[place] for result in results) / count for place in (1, 2))
    return loss, right, sum(len(ids) for ids, _ in rows)


def part_bounds(lengths: list[int]) -> list[int]:
    """Cuts rows sorted by length into parts of about the same number of tokens."""
    reached = np.cumsum(lengths)
    cuts = [int(np.searchsorted(reached, reached[-1] * n / PARTS)) + 1 for n in range(1, PARTS)]
    return sorted({0, *cuts, len(lengths)})


def checkpoint(path: Path, step: int, model: Network, opts: list[torch.optim.Optimizer]) -> None:
    state = {"step": step, "model": model.state_dict(), "opts": [o.state_dict() for o in opts]}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    weights = {name: value.numpy() for name, value in model.plain_weights().items()}
    np.savez(path.parent / "weights.npz", **weights)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "runs" / "tiny")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--muon-rate", type=float, default=6e-3)
    parser.add_argument("--adam-rate", type=float, default=4e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    tokenizer = tokenizer_of(options.run)
    model = Network(Shape(), factors(tokenizer))
    for layer in model.layers:
        layer.compile(dynamic=True)
    opts = optimizers(model, options.muon_rate, options.adam_rate)
    latest, first = options.run / "latest.pt", 0
    if latest.exists():
        state = torch.load(latest, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        first = state["step"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first}")
    began, tokens, loss_mean, right_mean = time.time(), 0, 0.0, 0.0
    for step, rows in enumerate(steps(tokenizer, first, options.steps), first):
        for opt in opts:
            muon = isinstance(opt, torch.optim.Muon)
            top = options.muon_rate if muon else options.adam_rate
            opt.param_groups[0]["lr"] = top * rate(step, options.steps)
        loss, right, read = learn(model, rows, workers)
        list(workers.map(lambda opt: opt.step(), opts))
        model.zero_grad(set_to_none=True)
        tokens += read
        blend = 0.95 if step > first else 0.0
        loss_mean, right_mean = (
            old * blend + new * (1 - blend) for old, new in ((loss_mean, loss), (right_mean, right))
        )
        if (step + 1) % 20 == 0:
            speed = tokens / (time.time() - began)
            print(f"step {step + 1:5d}/{options.steps}  loss {loss_mean:.4f}  right "
                  f"{right_mean:.4f}  {speed:,.0f} tokens/s", flush=True)  # fmt: skip
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            checkpoint(latest, step + 1, model, opts)


if __name__ == "__main__":
    main()
