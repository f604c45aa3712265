"""Measurement of one scenario on one server: runs the client and makes metrics of its record.

Metrics are plain dicts of floats: tokens/s and seconds. A scenario that could not be
measured has the single key `problem`.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from bench.scenarios import Bodies, ClosedLoop, FirstLoad, Scenario, Turns
from budmlx.benchmark.load import Load, Sample, first_waits, percentile, problem_of, summarize

CLIENT_SECONDS = 240.0

Metrics = dict[str, Any]


def measure(url: str, model: str, scenario: Scenario, bodies: Bodies, repeat: int) -> Metrics:
    """Send the scenario's requests and return its metrics."""
    try:
        if isinstance(scenario, ClosedLoop):
            return closed_loop_metrics(_run_loop(url, model, scenario, bodies, repeat))
        if isinstance(scenario, FirstLoad):
            halves = (scenario.loop(part) for part in ("first", "second"))
            return first_load_metrics(
                *(_run_loop(url, model, half, bodies, repeat) for half in halves)
            )
        if isinstance(scenario, Turns):
            return turns_metrics(run_client({"url": url, **bodies.turns(scenario, model, repeat)}))
        return join_metrics(run_client({"url": url, **bodies.join(scenario, model, repeat)}))
    except subprocess.TimeoutExpired:
        return {"problem": f"failed: not done after {CLIENT_SECONDS:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"problem": f"failed: the client ended: {error.stderr.strip().splitlines()[-1]}"}


def _run_loop(url: str, model: str, loop: ClosedLoop, bodies: Bodies, repeat: int) -> Load:
    load = {"users": loop.users, "bodies": bodies.closed_loop(loop, model, repeat)}
    return load_of(run_client({"url": url, **load}))


def run_client(load: dict[str, Any]) -> dict[str, Any]:
    """Run a load in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.client"],
        input=json.dumps(load),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def load_of(seen: dict[str, Any]) -> Load:
    """A closed loop's record from the client's JSON."""
    return Load(samples_of(seen["samples"]), seen["start"], seen["end"])


def samples_of(entries: Iterable[dict[str, Any]]) -> list[Sample]:
    """Samples from the client's JSON."""
    return [Sample(**entry) for entry in entries]


def closed_loop_metrics(load: Load) -> Metrics:
    """The summary of a closed loop as metrics."""
    summary = asdict(summarize(load))
    problem = summary.pop("problem")
    return {"problem": problem} if problem else summary


def first_load_metrics(first: Load, second: Load) -> Metrics:
    """Seconds until the last of the first requests has its answer, and of the second ones."""
    if problem := problem_of([*first.samples, *second.samples]):
        return {"problem": problem}
    times = (max(sample.ended for sample in load.samples) - load.start for load in (first, second))
    return dict(zip(("first", "second"), times, strict=True))


def turns_metrics(seen: dict[str, Any]) -> Metrics:
    """Time and computed tokens of a conversation.

    total: seconds of all turns. ttft_p50: of all but the first. distinct: tokens of the last
    prompt, which holds all others. computed: prompt tokens that no cache
    had, if the server reports them.
    """
    turns = [Sample(**entry) for entry in seen["turns"]]
    if problem := problem_of(turns):
        return {"problem": problem}
    metrics = {
        "turns": len(turns),
        "total": turns[-1].ended - turns[0].sent,
        "ttft_p50": percentile(list(first_waits(turns[1:])), 50),
        "distinct": turns[-1].prompt_tokens,
        "early": sum(turn.completion_tokens != turn.expected for turn in turns),
    }
    cached = [turn.cached_tokens for turn in turns if turn.cached_tokens is not None]
    if len(cached) == len(turns):
        metrics["computed"] = sum(turn.prompt_tokens for turn in turns) - sum(cached)
    return metrics


def join_metrics(seen: dict[str, Any]) -> Metrics:
    """Latencies of the probes, and of the streams before, during and after their prefill."""
    alone, streams, probes = (samples_of(seen[kind]) for kind in ("alone", "streams", "probes"))
    problem = problem_of([*alone, *probes]) or problem_of(
        [sample for sample in streams if sample.status != 200]
    )
    if problem and any(sample.error for sample in [*alone, *probes, *streams]):
        return {"problem": problem}
    if any(sample.finish_reason for sample in streams):
        return {"problem": "failed: streams ended before the last probe did"}
    quiet = gaps_in(streams, *seen["quiet"])
    prefill = [gap for p in probes for gap in gaps_in(streams, p.sent, p.chunks[0])]
    beside = [gap for p in probes for gap in gaps_in(streams, p.chunks[0], p.ended)]
    waits = list(first_waits(probes))
    return {
        "prompt_tokens": percentile([p.prompt_tokens for p in probes], 50),
        "ttft_alone": percentile(list(first_waits(alone)), 50),
        "ttft_p50": percentile(waits, 50),
        "ttft_p95": percentile(waits, 95),
        "quiet_p50": percentile(quiet, 50),
        "quiet_p95": percentile(quiet, 95),
        "prefill_p50": percentile(prefill, 50),
        "prefill_p95": percentile(prefill, 95),
        "beside_p50": percentile(beside, 50),
        "beside_p95": percentile(beside, 95),
    }


def gaps_in(samples: Iterable[Sample], start: float, end: float) -> list[float]:
    """The streams' gaps between pieces of text that overlap an interval."""
    return [
        after - before
        for sample in samples
        for before, after in itertools.pairwise(sample.chunks)
        if before < end and after > start
    ]
