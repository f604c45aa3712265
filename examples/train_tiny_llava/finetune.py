"""Teaches projector, language model and tower together to answer questions about pictures.

python finetune.py        resumes from runs/llava.pt; needs the tower of pretrain.py
"""

import argparse
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from llava import CHAT_MODEL, Llava
from progress import Progress, checkpoint, drawn_ahead, load, optimizers, set_rate
from questions import IMAGE_TOKEN, conversation, no_image
from scenes import cropped
from tiny import training
from tiny_torch import encode, padded
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tower import TowerShape

CHUNK = 25  # steps whose conversations are drawn together, from seeds of their own
SEEN, TALK, BLIND = 24, 6, 1  # conversations per step: with pictures, without, and missing one
ROWS = SEEN + TALK + BLIND
PARTS = 4  # a step's conversations go through the network in parts of similar length
TOWER_SHARE = 0.1  # of the rates, so that the tower keeps what it has learned
PATCHES = TowerShape().grid ** 2
FIRST_SEED = 1_000_000
Row = tuple[np.ndarray, np.ndarray, list[np.ndarray]]


def tokenizer_of(folder: Path = CHAT_MODEL) -> Tokenizer:
    """The chat model's tokenizer with the picture's placeholder, which gets the last id."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False)])
    return tokenizer


def spread(values: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """values, with each marked one repeated for every patch."""
    return np.repeat(values, np.where(marks, PATCHES, 1))


def draw_chunk(chunk: int) -> list[list[Row]]:
    """The rows of a chunk's steps: token ids, ids to learn (-1: none), and pictures."""
    tokenizer = tokenizer_of()
    start = FIRST_SEED + chunk * CHUNK * SEEN
    seen = [conversation(seed) for seed in range(start, start + CHUNK * SEEN)]
    talk = encode(tokenizer, training(FIRST_SEED + chunk, CHUNK * TALK * 5 // 4))
    talk = talk[: CHUNK * TALK]
    start = FIRST_SEED + chunk * CHUNK * BLIND
    talk += encode(tokenizer, [no_image(seed) for seed in range(start, start + CHUNK * BLIND)])
    image = tokenizer.token_to_id(IMAGE_TOKEN)
    rows: list[Row] = []
    for one in seen:
        for ids, learned in encode(tokenizer, [one.sample]):
            marks = ids == image
            pictures = [cropped(scene.picture) for scene in one.scenes]
            rows.append((spread(ids, marks), spread(learned, marks), pictures))
    rows += [(ids, learned, []) for ids, learned in talk]
    steps = [rows[step::CHUNK] for step in range(CHUNK)]
    return [sorted(step, key=lambda row: len(row[0])) for step in steps]


def part_gradients(
    model: Llava, parameters: list[Tensor], rows: list[Row], count: int
) -> tuple[tuple[Tensor | None, ...], float, int]:
    ids, targets = padded([(ids, learned) for ids, learned, _ in rows])
    pictures = [picture for _, _, pictures in rows for picture in pictures]
    pixels = torch.from_numpy(np.stack(pictures)) if pictures else None
    loss, right = model(ids, targets, pixels)
    gradients = torch.autograd.grad(loss / count, parameters, allow_unused=True)
    return gradients, loss.item(), int(right)


def learn(
    model: Llava, parameters: list[Tensor], rows: list[Row], workers: ThreadPoolExecutor
) -> tuple[float, float]:
    """One step's gradients; the mean loss and the share of right tokens.

    Each part runs on one thread: busy neighbours then cost a thread its turn, not every operation.
    """
    count = sum(int((learned[1:] >= 0).sum()) for _, learned, _ in rows)
    reached = np.cumsum([len(ids) for ids, _, _ in rows])
    cuts = np.searchsorted(reached, [reached[-1] * n / PARTS for n in range(1, PARTS)]) + 1
    bounds = sorted({0, *cuts.tolist(), len(rows)})
    parts = [rows[start:end] for start, end in itertools.pairwise(bounds)]
    jobs = [workers.submit(part_gradients, model, parameters, part, count) for part in parts[::-1]]
    results = [job.result() for job in jobs]
    for place, parameter in enumerate(parameters):
        parts_of = [gradients[place] for gradients, _, _ in results]
        parameter.grad = sum(part for part in parts_of if part is not None)
    clip_grad_norm_(parameters, 1.0)
    loss, right = (sum(result[place] for result in results) / count for place in (1, 2))
    return loss, right


def write_weights(run: Path, model: Llava) -> None:
    """For export.py: the weights, and the tower's shape."""
    np.savez(run / "weights.npz", **{name: v.numpy() for name, v in model.plain_weights().items()})
    (run / "tower.json").write_text(json.dumps(asdict(model.tower.shape)))


def started(run: Path) -> Llava:
    model = Llava()
    state = torch.load(run / "tower.pt", weights_only=True)["model"]
    tower = {name.removeprefix("tower."): v for name, v in state.items() if name[:5] == "tower"}
    model.start(tower)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--steps", type=int, default=2150)
    parser.add_argument("--muon-rate", type=float, default=1.5e-3)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    model = started(options.run)
    for layer in (*model.tower.encoder.layers, *model.language.layers):
        layer.compile(dynamic=True)
    opts = optimizers(model, options.muon_rate, options.adam_rate, slow={"tower.": TOWER_SHARE})
    first = load(options.run / "llava.pt", model, opts)
    parameters = [p for p in model.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in parameters):,} parameters, from step {first}", flush=True)
    progress = Progress(first, options.steps, "tokens")
    for step, rows in enumerate(drawn_ahead(draw_chunk, CHUNK, first, options.steps), first):
        set_rate(opts, step, options.steps)
        loss, right = learn(model, parameters, rows, workers)
        list(workers.map(lambda opt: opt.step(), opts))
        progress.note(loss, right, sum(len(ids) for ids, _, _ in rows))
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            checkpoint(options.run / "llava.pt", step + 1, model, opts)
    write_weights(options.run, model)


if __name__ == "__main__":
    main()
