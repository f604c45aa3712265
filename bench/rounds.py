"""Rounds of a run: all contestants in turn, and their metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contestants import OURS, Contestant
from bench.measure import Metrics, measure
from bench.scenarios import GREEDY, SAMPLED, Bodies, ClosedLoop, FirstLoad, Scenario
from budmlx.benchmark.server_process import ServerProcess, SpawnError

EMBEDDED_SECONDS = 300.0
WARM_UP = [
    ClosedLoop(name="warm-up", users=1, requests=1, options=GREEDY, max_tokens=(8, 8)),
    ClosedLoop(name="warm-up-16", users=16, requests=16, options=SAMPLED, max_tokens=(16, 16)),
]
Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """All measurements of one run. gpu: whether it was on one.

    servers: scenario -> contestant -> metrics of each round.
    embedded: measurement -> result of each round.
    """

    servers: dict[str, dict[str, list[Metrics]]] = field(default_factory=dict)
    embedded: dict[str, list[Metrics]] = field(default_factory=dict)
    gpu: bool = False

    def add(self, scenario: str, contestant: str, metrics: Metrics) -> None:
        """Note the metrics of one round."""
        self.servers.setdefault(scenario, {}).setdefault(contestant, []).append(metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings that all rounds of a run share. logs: directory for the servers' output."""

    model: Path
    environment: Mapping[str, str]
    logs: Path
    bodies: Bodies
    say: Say


def run_servers(
    settings: RunSettings,
    contestants: Sequence[Contestant],
    scenarios: Sequence[Scenario],
    repeats: int,
    run: Run,
) -> None:
    """Let every contestant run every scenario `repeats` times, in alternating order."""
    for repeat in range(repeats):
        order = contestants if repeat % 2 == 0 else list(reversed(contestants))
        for contestant in order:
            settings.say(f"round {repeat + 1} of {repeats}: {contestant.name}")
            _one_server(settings, contestant, scenarios, repeat, run)


def _one_server(
    settings: RunSettings,
    contestant: Contestant,
    scenarios: Sequence[Scenario],
    repeat: int,
    run: Run,
) -> None:
    waiting = [s for s in scenarios if _takes_part(contestant, s)]
    # Before the warm-up, which is a first load itself.
    waiting.sort(key=lambda scenario: not isinstance(scenario, FirstLoad))
    if not waiting:
        return
    for attempt in range(2):
        # A server that died gets a second chance with the scenarios after the fatal one.
        log = settings.logs / f"{contestant.name}-{repeat + 1}-{attempt + 1}.log"
        try:
            with ServerProcess(
                contestant.command,
                log=log,
                model=contestant.model,
                environment=settings.environment,
            ) as server:
                warm = False
                while waiting and server.alive:
                    scenario = waiting.pop(0)
                    if not warm and not isinstance(scenario, FirstLoad):
                        _warm_up(settings, server, f"{repeat}-{attempt}")
                        warm = True
                    metrics = measure(server.url, server.model, scenario, settings.bodies, repeat)
                    run.add(scenario.name, contestant.name, metrics)
                    settings.say(f"  {scenario.name}: {in_words(metrics)}")
                    if metrics.get("problem", "").startswith("failed"):
                        settings.say(server.log_tail())
        except SpawnError as error:
            settings.say(f"  {error.message}")
            for scenario in waiting:
                run.add(scenario.name, contestant.name, {"problem": "failed: did not start"})
            return
        if not waiting:
            return


def _takes_part(contestant: Contestant, scenario: Scenario) -> bool:
    if contestant.only:
        return scenario.name in contestant.only
    return contestant.name == OURS or not getattr(scenario, "ours", False)


def _warm_up(settings: RunSettings, server: ServerProcess, label: str) -> None:
    for scenario in WARM_UP:
        measure(server.url, server.model, scenario, settings.bodies, hash(label) % 10**6)


def run_embedded(settings: RunSettings, wanted: Sequence[str], repeats: int, run: Run) -> None:
    """Run the measurements without a server, one process each, in turn."""
    for repeat in range(repeats):
        for what in wanted:
            metrics = _embedded(settings, what)
            run.embedded.setdefault(what, []).append(metrics)
            settings.say(f"embedded {what}, round {repeat + 1}: {in_words(metrics)}")


def _embedded(settings: RunSettings, what: str) -> Metrics:
    command = [sys.executable, "-m", "bench.embedded", what, str(settings.model)]
    environment = {**os.environ, **settings.environment}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=EMBEDDED_SECONDS,
            check=True,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"failed: not done after {EMBEDDED_SECONDS:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"problem": "failed: " + error.stderr.strip().splitlines()[-1]}
    result: Metrics = json.loads(done.stdout.splitlines()[-1])
    return result


def in_words(metrics: Mapping[str, Any]) -> str:
    """One line about metrics."""
    if "problem" in metrics:
        return str(metrics["problem"]).splitlines()[0]
    parts = []
    for name, value in metrics.items():
        if name.endswith("tokens_per_second"):
            kind = name.removesuffix("tokens_per_second").replace("_", " ")
            parts.append(f"{kind}{value:.0f} tok/s")
        elif name.endswith("_bytes"):
            parts.append(f"{name.removesuffix('_bytes')} {value / 2**20:.0f} MiB")
        elif name.endswith(("_host", "_bare")):
            parts.append(f"{name} {value:.0f} us")
        elif isinstance(value, float) and name != "prompt_tokens":
            parts.append(f"{name} {1000 * value:.0f} ms")
        elif value and not isinstance(value, Mapping):
            parts.append(f"{name} {value:.0f}")
    return ", ".join(parts)
