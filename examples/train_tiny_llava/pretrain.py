"""Teaches the vision tower to say of each patch what covers it and how that relates to the rest.

A dense target teaches a small tower within minutes what answers alone would take far longer to.
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
from scenes import COLOURS, SHAPES, Thing, cropped, some_scene
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from tower import Tower, TowerShape

CHUNK = 50  # steps whose pictures are drawn together, from a seed of their own
ROWS = 96
BEFORE = 500  # steps without relations: they hide the shapes while those are unknown
PARTS = 4  # a step's pictures go through the network in parts, each on one thread
GRID = TowerShape().grid
Step = tuple[np.ndarray, np.ndarray]
# What each patch is asked, and how many answers there are. Colours, ranks from the left and
# numbers of like shapes are asked only of patches that a shape covers.
TASKS = {"centre": 2, "shape": 1 + len(SHAPES), "colour": len(COLOURS), "count": 5, "rank": 4,
         "same colour": 4, "same shape": 4, "alike": 4}  # fmt: skip


def targets(things: list[Thing]) -> np.ndarray:
    """[patches, 8]: for each patch the classes of `TASKS`, -1 where nothing is to be learned."""
    marks = np.full((GRID, GRID, len(TASKS)), -1)
    marks[..., 0], marks[..., 1], marks[..., 3] = 0, 0, len(things)
    middles = (np.arange(GRID) + 0.5) / GRID
    for rank, thing in enumerate(things):
        distance = np.hypot(middles[None, :] - thing.x, middles[:, None] - thing.y)
        row, column = int(thing.y * GRID), int(thing.x * GRID)
        covered = distance < thing.size / 2
        covered[row, column] = True
        alike = [(other.colour == thing.colour, other.shape == thing.shape) for other in things]
        marks[covered, 1] = 1 + SHAPES.index(thing.shape)
        marks[covered, 2] = list(COLOURS).index(thing.colour)
        marks[covered, 4] = rank
        marks[covered, 5] = sum(colour for colour, _ in alike) - 1
        marks[covered, 6] = sum(shape for _, shape in alike) - 1
        marks[covered, 7] = sum(colour and shape for colour, shape in alike) - 1
        marks[row, column, 0] = 1
    return marks.reshape(-1, len(TASKS))


def draw_chunk(seed: int) -> list[Step]:
    """For each step, pictures [ROWS, 64, 64, 3] and their targets [ROWS, patches, tasks]."""
    rng = Random(seed)
    scenes = [some_scene(rng) for _ in range(CHUNK * ROWS)]
    pixels = np.stack([cropped(scene.picture) for scene in scenes])
    marks = np.stack([targets(scene.things) for scene in scenes])
    return list(zip(np.split(pixels, CHUNK), np.split(marks, CHUNK), strict=True))


class Pretraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower(TowerShape())
        width = TowerShape().width
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(TASKS.values())))

    def forward(self, pixels: Tensor, marks: Tensor, relations: float) -> tuple[Tensor, Tensor]:
        """The loss, and the share of right classes in each task.

        relations: the weight of what a patch is asked about other shapes.
        """
        outputs = self.head(self.tower(pixels)).split(list(TASKS.values()), -1)
        loss, right = torch.zeros(()), []
        weights = [4.0, 1.0, 1.0, *[relations] * 5]
        for output, wanted, weight in zip(outputs, marks.unbind(-1), weights, strict=True):
            error = F.cross_entropy(output.flatten(0, 1), wanted.flatten(), ignore_index=-1)
            loss = loss + weight * error
            asked = wanted >= 0
            right.append((output.argmax(-1) == wanted)[asked].float().mean())
        return loss, torch.stack(right).detach()


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

    def part(pixels: Tensor, marks: Tensor) -> tuple[tuple[Tensor, ...], float, Tensor]:
        loss, right = model(pixels, marks, relations)
        return torch.autograd.grad(loss, parameters), loss.item(), right

    progress = Progress(first, options.steps, "pictures")
    drawn = drawn_ahead(draw_chunk, CHUNK, first, options.steps)
    for step, arrays in enumerate(drawn, first):
        set_rate(opts, step, options.steps)
        relations = 0.4 * min(1.0, max(0.0, (step - BEFORE) / 300))
        pixels, marks = (torch.from_numpy(array).chunk(PARTS) for array in arrays)
        results = list(workers.map(part, pixels, marks))
        for place, parameter in enumerate(parameters):
            parameter.grad = sum(gradients[place] for gradients, _, _ in results) / len(results)
        clip_grad_norm_(parameters, 1.0)
        list(workers.map(lambda opt: opt.step(), opts))
        loss, right = (sum(result[n] for result in results) / len(results) for n in (1, 2))
        progress.note(loss, right.mean().item(), ROWS)
        if (step + 1) % 100 == 0:
            print("  ".join(f"{n} {r:.3f}" for n, r in zip(TASKS, right, strict=True)), flush=True)
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            checkpoint(options.run / "tower.pt", step + 1, model, opts)


if __name__ == "__main__":
    main()
