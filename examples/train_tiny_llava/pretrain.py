"""Teaches the vision tower to say of each patch which shape and colour covers it.

A dense target teaches a small tower within minutes what captions alone teach it within days.
Resumes from runs/tower.pt.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import torch
from progress import Progress, checkpoint, drawn_ahead, load, optimizers, set_rate
from scenes import COLOURS, SHAPES, Thing, cropped, draw_scene
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from tower import Tower, TowerShape

CHUNK = 50  # steps whose pictures are drawn together, from a seed of their own
ROWS = 96
PARTS = 4  # a step's pictures go through the network in parts, each on one thread
GRID = TowerShape().grid
Step = tuple[np.ndarray, np.ndarray]


def targets(things: list[Thing]) -> np.ndarray:
    """[patches, 3]: shape (0 where none), colour (-1 where none), and 1 at a shape's centre."""
    marks = np.tile(np.array([0, -1, 0]), (GRID, GRID, 1))
    middles = (np.arange(GRID) + 0.5) / GRID
    for thing in things:
        distance = np.hypot(middles[None, :] - thing.x, middles[:, None] - thing.y)
        row, column = int(thing.y * GRID), int(thing.x * GRID)
        covered = distance < thing.size / 2
        covered[row, column] = True
        marks[covered, 0] = 1 + SHAPES.index(thing.shape)
        marks[covered, 1] = list(COLOURS).index(thing.colour)
        marks[row, column, 2] = 1
    return marks.reshape(-1, 3)


def draw_chunk(seed: int) -> list[Step]:
    """For each step, pictures [ROWS, 64, 64, 3] and their targets [ROWS, patches, 3]."""
    rng = Random(seed)
    scenes = [draw_scene(rng, rng.choice((1, 2, 2, 3, 4, 4))) for _ in range(CHUNK * ROWS)]
    pixels = np.stack([cropped(scene.picture) for scene in scenes])
    marks = np.stack([targets(scene.things) for scene in scenes])
    return list(zip(np.split(pixels, CHUNK), np.split(marks, CHUNK), strict=True))


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, 1 + len(SHAPES) + len(COLOURS) + 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        sizes = [1 + len(SHAPES), len(COLOURS), 1]
        return list(self.answer(self.norm(x)).split(sizes, -1))


class Pretraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower(TowerShape())
        self.head = Head(TowerShape().width)

    def forward(self, pixels: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss, and the share of pictures with every centre right and no other."""
        shape, colour, centre = self.head(self.tower(pixels))
        wanted_shape, wanted_colour, wanted_centre = marks.unbind(-1)
        loss = (
            F.cross_entropy(shape.flatten(0, 1), wanted_shape.flatten())
            + F.cross_entropy(colour.flatten(0, 1), wanted_colour.flatten(), ignore_index=-1)
            + 4 * F.binary_cross_entropy_with_logits(centre[..., 0], wanted_centre.float())
        )
        found = centre[..., 0] > 0
        same = (shape.argmax(-1) == wanted_shape) & (colour.argmax(-1) == wanted_colour)
        right = (found == (wanted_centre > 0)) & (same | (wanted_centre == 0))
        return loss, right.all(-1).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--muon-rate", type=float, default=4e-3)
    parser.add_argument("--adam-rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    model = Pretraining()
    for layer in model.tower.encoder.layers:
        layer.compile(dynamic=True)
    opts = optimizers(model, options.muon_rate, options.adam_rate)
    first = load(options.run / "tower.pt", model, opts)
    parameters = [p for p in model.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in parameters):,} parameters, from step {first}", flush=True)

    def part(pixels: Tensor, marks: Tensor) -> tuple[tuple[Tensor, ...], float, float]:
        loss, right = model(pixels, marks)
        return torch.autograd.grad(loss, parameters), loss.item(), right.item()

    progress = Progress(first, options.steps, "pictures")
    drawn = drawn_ahead(draw_chunk, CHUNK, first, options.steps)
    for step, arrays in enumerate(drawn, first):
        set_rate(opts, step, options.steps)
        pixels, marks = (torch.from_numpy(array).chunk(PARTS) for array in arrays)
        results = list(workers.map(part, pixels, marks))
        for place, parameter in enumerate(parameters):
            parameter.grad = sum(gradients[place] for gradients, _, _ in results) / len(results)
        clip_grad_norm_(parameters, 1.0)
        list(workers.map(lambda opt: opt.step(), opts))
        loss, right = (sum(result[n] for result in results) / len(results) for n in (1, 2))
        progress.note(loss, right, ROWS)
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            checkpoint(options.run / "tower.pt", step + 1, model, opts)


if __name__ == "__main__":
    main()
