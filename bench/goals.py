"""Medians and ratios of a run, and the bars to reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.contestants import NO_REUSE, OURS
from bench.measure import Metrics
from bench.rounds import Run

PEER = "mlx_lm.server"
ADAPTERS = {
    "unused": "16 adapters, unused",
    "four": "4 adapters in use",
    "sixteen": "16 adapters in use",
}


def median(rounds: Sequence[Metrics], name: str) -> float | None:
    """The median of a metric over rounds; None where one of them has a problem."""
    values = [metrics.get(name) for metrics in rounds]
    if not values or any(value is None for value in values):
        return None
    return statistics.median(values)  # type: ignore[type-var]


def each(rounds: Sequence[Metrics], value: Callable[[Metrics], float]) -> float | None:
    """The median of a value over the rounds that have no problem."""
    values = [value(metrics) for metrics in rounds if "problem" not in metrics]
    return statistics.median(values) if values else None


def quotient(rounds: Sequence[Metrics], name: str, other: str) -> float | None:
    """The median of a metric divided by another one of the same round."""
    return each(rounds, lambda metrics: metrics[name] / metrics[other])


def ratio_of(
    rounds: Sequence[Metrics], others: Sequence[Metrics], name: str = "tokens_per_second"
) -> float | None:
    """The median of a metric divided by that of the same round of the others."""
    pairs = zip(rounds, others, strict=False)
    quotients = [a[name] / b[name] for a, b in pairs if a.get(name) and b.get(name)]
    return statistics.median(quotients) if quotients else None


def ratio(
    run: Run, scenario: str, ours: str, peer: str, name: str = "tokens_per_second"
) -> float | None:
    """`ratio_of` two contestants in a scenario."""
    by_server = run.servers.get(scenario, {})
    return ratio_of(by_server.get(ours, ()), by_server.get(peer, ()), name)


def efficiency(run: Run, what: str, name: str = "tokens_per_second") -> float | None:
    """A speed without a server as share of the bare loop's."""
    return ratio_of(run.embedded.get(what, ()), run.embedded.get("bare", ()), name)


@dataclass(frozen=True, slots=True)
class Bar:
    """A goal: the measured value has to be at least (or at most) the limit."""

    name: str
    value: float | None
    limit: float
    at_least: bool
    unit: str = "x"

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit


# Tokens per second against the peer's: on a CPU, and on a GPU if another share is wanted there.
# On a CPU the bare loop alone is no more than some 1.7 times as fast as the peer with greedy-16.
THROUGHPUT: tuple[tuple[str, float, float | None], ...] = (
    ("greedy-1", 1.1, None),
    ("greedy-16", 1.3, 1.8),
    ("sampled-16", 1.8, None),
    ("flat-sampled-16", 1.5, 1.8),
    ("seeded-16", 6.0, None),
    ("shared-16", 1.8, None),
    ("long-prompts-16", 1.0, None),
    ("smollm2-greedy-1", 1.0, None),
    ("smollm2-greedy-16", 1.5, None),
    ("smollm2-sampled-16", 1.5, None),
)
# Time to the first token against the peer's.
WAITS = (("shared-16", 0.3), ("long-prompts-16", 0.8), ("long-prefill", 1.5))


def bars(run: Run) -> list[Bar]:
    """All goals, with what this run measured."""
    return [*_loop_bars(run), *_join_bars(run), *_embedded_bars(run), *_reuse_bars(run)]


def _loop_bars(run: Run) -> list[Bar]:
    against = f"tokens/s against {PEER}"
    found = [
        Bar(f"{name}, {against}", ratio(run, name, OURS, PEER), (run.gpu and on_gpu) or share, True)
        for name, share, on_gpu in THROUGHPUT
    ]
    for name, share in WAITS:
        wait = ratio(run, name, OURS, PEER, "ttft_p50")
        found.append(Bar(f"{name}, median TTFT against {PEER}", wait, share, False))
    for name in ("penalties-16", "logprobs-16", "constrained-16"):
        found.append(Bar(f"{name}, cost against sampled-16", _cost(run, name), 15, False, " %"))
    hit = median(run.servers.get("cache-hits", {}).get(OURS, ()), "ttft_p50")
    hit = None if hit is None else 1000 * hit
    found.append(Bar("a hit of the response cache, median", hit, 2, False, " ms"))
    first = _ours(run, "first-16", lambda m: m["first"] / m["second"])
    found.append(Bar("the first 16 requests after start, time of the second 16", first, 3, False))
    return found


def _join_bars(run: Run) -> list[Bar]:
    prefill = _ours(run, "long-prefill", lambda m: m["prefill_p95"] / m["quiet_p95"])
    late = _ours(
        run,
        "late-joiner",
        lambda m: m["ttft_p50"] / (1.5 * m["ttft_alone"] + 2 * m["quiet_p50"]),
    )
    return [
        Bar("inter-token p95 during a 4,000-token prefill, against quiet", prefill, 3, False),
        Bar("late joiner's TTFT, against 1.5 x alone + 2 steps", late, 1, False),
    ]


def _embedded_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("long-row", [])
    slowdown = quotient(rounds, "beside_step", "quiet_step")
    peak = quotient(rounds, "peak_bytes", "projected_bytes")
    share = efficiency(run, "engine")
    found = [
        Bar(
            "16 greedy rows in the Engine, share of bare loop",
            share,
            0.93 if run.gpu else 0.85,
            True,
        ),
        Bar("15 short rows' steps beside a 4,000-token row", slowdown, 2, False),
        Bar("peak memory beside that row, of the projection", peak, 1, False),
    ]
    if run.gpu:
        single = efficiency(run, "engine", "single_tokens_per_second")
        found.insert(0, Bar("1 greedy row in the Engine, share of bare loop", single, 0.9, True))
        speed = quotient(
            run.embedded.get("prefill", []), "tokens_per_second", "best_tokens_per_second"
        )
        found.append(Bar("prefill alone, of bare loop at its best chunk", speed, 0.9, True))
    steps = run.embedded.get("sampled-step", [])
    for logits in ("peaked", "flat"):
        cost = quotient(steps, f"{logits}_sampled", f"{logits}_greedy")
        name = f"step of 16 rows with top_p, {logits} logits, of a greedy one"
        found.append(Bar(name, cost, 1.15, False))
    found += _adapter_bars(run)
    found += _model_bars(run)
    found += _draft_bars(run)
    found += _balancer_bars(run)
    found += _rank_bars(run)
    found += _background_bars(run)
    work = run.embedded.get("host-work", [])
    if any("baseline_single_host" in metrics for metrics in work):
        for kind, label in (("single", "1 row"), ("sixteen", "16 rows")):
            share = quotient(work, f"{kind}_host", f"baseline_{kind}_host")
            found.append(
                Bar(f"host's work in a step of {label}, of --baseline's", share, 0.5, False)
            )
    return found


def _adapter_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("adapters", [])
    limits = {
        "float32": {"unused": 1.05, "four": 1.15, "sixteen": 1.35},
        "4bit": {"unused": 1.05, "four": 1.10, "sixteen": 1.35},
    }
    if run.gpu:
        del limits["float32"]  # its model is quantized
    return [
        Bar(f"{ADAPTERS[kind]}, {weights}, step of 16 rows against none", cost, limit, False)
        for weights, kinds in limits.items()
        for kind, limit in kinds.items()
        for cost in [quotient(rounds, f"{weights}_{kind}", f"{weights}_none")]
    ]


def _balancer_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("balancer", [])
    return [
        Bar(f"32 users through {label}, tokens/s of those without", share, 0.95, True)
        for name, label in (("nginx", "nginx"), ("haproxy", "HAProxy"))
        if (share := median(rounds, name)) is not None
    ]


def _rank_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("ranks", [])
    if not rounds or run.gpu:  # two ranks of one GPU gain nothing
        return []
    decisions = each(rounds, lambda m: 100 * m["decisions"])
    return [
        Bar("2 ranks against 1 process, 16 rows, tokens/s", median(rounds, "gain_16"), 1.25, True),
        Bar("the same, 1 row", median(rounds, "gain_1"), 0.6, True),
        Bar("rank 0's messages, of a step of 16 rows", decisions, 2, False, " %"),
    ]


def _background_bars(run: Run) -> list[Bar]:
    embedded = run.embedded
    batch, beside = embedded.get("background", []), embedded.get("vectors-chat", [])
    peak = quotient(embedded.get("vectors-memory", []), "peak", "prefill_peak")
    share, cost = (
        median(embedded.get(what, []), name)
        for what, name in (("vectors", "share"), ("vectors-mixed", "cost"))
    )
    return [
        Bar("vectors of 512 x 64 tokens, tokens/s of the bare body", share, 0.9, True),
        Bar("vectors of 8 to 256 tokens, time of the best grouping", cost, 1.2, False),
        Bar("vectors of 16 x 512 tokens, peak memory of a prefill's", peak, 1.5, False),
        Bar("chat beside vectors, inter-token p95 of quiet", median(beside, "gap"), 3, False),
        Bar("vectors beside a chat, of their speed alone", median(beside, "speed"), 0.5, True),
        Bar("a batch on an idle server, of interactive", median(batch, "idle"), 0.95, True),
        Bar("4 users beside a batch, mean step of quiet", median(batch, "growth"), 1.2, False),
        Bar(
            "newcomer's first token beside 32 rows of a batch, later",
            median(batch, "steps_later"),
            2,
            False,
            " steps",
        ),
    ]


def _model_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("models", [])
    turns, load = quotient(rounds, "turns", "one"), median(rounds, "load")
    returned = each(rounds, lambda m: 100 * m["returned"])
    return [
        Bar("two models in turns, TTFT p50 against one", turns, 1.05, False),
        Bar("a model that is loaded for a request, first token after", load, 3, False, " s"),
        Bar("memory back 2 s after an unload, of the model's", returned, 90, True, " %"),
    ]


DRAFT_BARS = {
    "rewrite_1": ("files rewritten, 1 user", 2.5),
    "rewrite_4": ("files rewritten, 4 users", 1.5),
    "rewrite_16": ("files rewritten, 16 users", 1.3),
    "replace_1": ("search and replace blocks, 1 user", 2.0),
    "predicted_1": ("a reply with a prediction, 1 user", 2.5),
    "json_1": ("JSON with long keys under a schema, 1 user", 1.5),
    "chat_1": ("text without repetition, 1 user", 0.96),
    "chat_4": ("text without repetition, 4 users", 0.96),
    "chat_16": ("text without repetition, 16 users", 0.96),
}


def _draft_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("speculation", [])
    return [
        Bar(f"{name}, tokens/s with drafts of without", median(rounds, f"{kind}_ratio"), bar, True)
        for kind, (name, bar) in DRAFT_BARS.items()
    ]


def _reuse_bars(run: Run) -> list[Bar]:
    rounds = run.embedded.get("prefix", [])
    hit = each(rounds, lambda m: 100 * m["hit"] / m["cold"])
    in_place = quotient(rounds, "hit", "in_place")
    disk = each(rounds, lambda m: 100 * m["disk"] / m["cold"])
    total = ratio(run, "turns-20", OURS, PEER, "total")
    computed = _ours(run, "turns-20", lambda m: m["computed"] / (m["distinct"] + m["turns"]))
    unused = ratio(run, "greedy-16", OURS, NO_REUSE)
    return [
        Bar("50 tokens after 4,000 stored ones, TTFT of cold", hit, 5, False, " %"),
        Bar("the same, against the model alone with KV in place", in_place, 1.3, False),
        Bar("the same after a restart, from disk, of cold", disk, 20, False, " %"),
        Bar(f"turns-20, total time against {PEER}", total, 1, False),
        Bar("turns-20, tokens computed, of distinct + one per turn", computed, 1, False),
        Bar("greedy-16 (nothing matches), tokens/s against no reuse", unused, 0.97, True),
    ]


def _cost(run: Run, scenario: str) -> float | None:
    """Per cent of our own speed that a feature costs against plain sampling."""
    share = ratio_of(
        run.servers.get(scenario, {}).get(OURS, ()), run.servers.get("sampled-16", {}).get(OURS, ())
    )
    return None if share is None else 100 * (1 - share)


def _ours(run: Run, scenario: str, value: Callable[[Metrics], float]) -> float | None:
    return each(run.servers.get(scenario, {}).get(OURS, ()), value)
