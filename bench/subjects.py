"""Subjects: the models of a run, each with the scenarios that it is measured with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Device
from bench.model import cached_model, written
from bench.scenarios import FLAT, SMOLLM2, Scenario, scenarios

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and its scenarios. name: of the directory of its servers' logs."""

    name: str
    path: Path
    scenarios: list[Scenario]


def context_of(model: Path) -> int:
    """The tokens that a model takes."""
    config = json.loads((model / "config.json").read_text())
    return int(config.get("max_position_embeddings", 4096))


def subjects(main: Path, device: Device, wanted: set[str], say: Say) -> Iterator[Subject]:
    """Those of which a scenario is wanted; models that are missing are written.

    main: the model of all scenarios but those of other logits and of a real model.
    wanted: names of scenarios.
    """

    def chosen(all_: list[Scenario]) -> list[Scenario]:
        return [each for each in all_ if each.name in wanted]

    if some := chosen(scenarios(context_of(main))):
        yield Subject("main", main, some)
    if some := chosen(FLAT):
        yield Subject("flat", cached_model(device.kind, "flat"), some)
    if some := chosen(SMOLLM2):
        try:
            path = written("smollm2-135m-float32", "bench.smollm2")
        except subprocess.CalledProcessError:
            say("smollm2: not measured, since its package cannot be had")
            return
        yield Subject("smollm2", path, some)
