"""Tables of a run: medians over its rounds, ratios to each peer, and the bars to reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.contestants import OURS
from bench.measure import Metrics
from bench.rounds import Run

PEER = "mlx_lm.server"
Table = list[list[str]]


def median(rounds: Sequence[Metrics], name: str) -> float | None:
    """The median of a metric over rounds; None where one of them has a problem."""
    values = [metrics.get(name) for metrics in rounds]
    if not values or any(value is None for value in values):
        return None
    return statistics.median(values)  # type: ignore[type-var]


def ratio(
    run: Run, scenario: str, ours: str, peer: str, name: str = "tokens_per_second"
) -> float | None:
    """Median over rounds of our metric divided by the peer's in the same round."""
    by_server = run.servers.get(scenario, {})
    pairs = zip(by_server.get(ours, ()), by_server.get(peer, ()), strict=False)
    quotients = [a[name] / b[name] for a, b in pairs if a.get(name) and b.get(name)]
    return statistics.median(quotients) if quotients else None


def loops_table(run: Run) -> Table:
    """Throughput and latencies of the closed loops."""
    table = [
        ["scenario", "server", "tok/s", "budmlx is", "TTFT p50", "p95", "ITL p50", "p95", "notes"]
    ]
    for scenario, by_server in run.servers.items():
        for server, rounds in by_server.items():
            if any("quiet_p50" in metrics for metrics in rounds):
                continue
            quotient = None if server == OURS else ratio(run, scenario, OURS, server)
            latencies = (
                _milliseconds(median(rounds, name))
                for name in ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95")
            )
            speed = median(rounds, "tokens_per_second")
            table.append(
                [
                    scenario,
                    server,
                    "" if speed is None else f"{speed:.0f}",
                    "" if quotient is None else f"{quotient:.2f}x",
                    *latencies,
                    _notes(rounds),
                ]
            )
    return table


def joins_table(run: Run) -> Table:
    """Latencies when requests join running streams."""
    columns = (
        "ttft_alone",
        "ttft_p50",
        "ttft_p95",
        "quiet_p50",
        "quiet_p95",
        "prefill_p50",
        "prefill_p95",
        "beside_p50",
    )
    table = [
        [
            "scenario",
            "server",
            "TTFT alone",
            "TTFT joining p50",
            "p95",
            "ITL quiet p50",
            "p95",
            "during prefill p50",
            "p95",
            "after it p50",
            "notes",
        ]
    ]
    for scenario, by_server in run.servers.items():
        for server, rounds in by_server.items():
            if any("quiet_p50" in metrics for metrics in rounds) or scenario.startswith(
                ("late", "long-prefill")
            ):
                cells = (_milliseconds(median(rounds, name) or None) for name in columns)
                table.append([scenario, server, *cells, _notes(rounds)])
    return table


def embedded_table(run: Run) -> Table:
    """The model alone, the core and the Engine at 16 greedy rows."""
    table = [["steady decode of 16 greedy rows", "tok/s", "of the bare loop"]]
    for what in ("bare", "core", "engine"):
        if rounds := run.embedded.get(what):
            speed = median(rounds, "tokens_per_second")
            share = efficiency(run, what)
            table.append(
                [
                    what,
                    _notes(rounds) if speed is None else f"{speed:.0f}",
                    "" if share is None else f"{share:.2f}",
                ]
            )
    return table


def efficiency(run: Run, what: str) -> float | None:
    """Median over rounds of a speed as share of the bare loop's."""
    pairs = zip(run.embedded.get(what, ()), run.embedded.get("bare", ()), strict=False)
    name = "tokens_per_second"
    shares = [a[name] / b[name] for a, b in pairs if a.get(name) and b.get(name)]
    return statistics.median(shares) if shares else None


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


def bars(run: Run) -> list[Bar]:
    """All goals, with what this run measured."""
    found = [
        Bar(f"{name}, tokens/s against {PEER}", ratio(run, name, OURS, PEER), limit, True)
        for name, limit in (
            ("greedy-1", 1.0),
            ("sampled-16", 1.8),
            ("greedy-16", 1.5),
            ("seeded-16", 6.0),
        )
    ]
    for name in ("penalties-16", "logprobs-16", "constrained-16"):
        found.append(Bar(f"{name}, cost against sampled-16", _cost(run, name), 15, False, " %"))
    hit = median(run.servers.get("cache-hits", {}).get(OURS, ()), "ttft_p50")
    hit = None if hit is None else 1000 * hit
    found.append(Bar("a hit of the response cache, median", hit, 2, False, " ms"))
    found.append(
        Bar(
            "16 greedy rows in the Engine, share of bare loop",
            efficiency(run, "engine"),
            0.85,
            True,
        )
    )
    prefill = _each(run, "long-prefill", lambda m: m["prefill_p95"] / m["quiet_p95"])
    found.append(
        Bar("inter-token p95 during a 4,000-token prefill, against quiet", prefill, 3, False)
    )
    late = _each(
        run,
        "late-joiner",
        lambda m: m["ttft_p50"] / (1.5 * m["ttft_alone"] + 2 * m["quiet_p50"]),
    )
    found.append(Bar("late joiner's TTFT, against 1.5 x alone + 2 steps", late, 1, False))
    rounds = run.embedded.get("long-row", [])
    slowdown = [m["beside_step"] / m["quiet_step"] for m in rounds if "problem" not in m]
    peak = [m["peak_bytes"] / m["projected_bytes"] for m in rounds if "problem" not in m]
    found.append(Bar("15 short rows' steps beside a 4,000-token row", _median(slowdown), 2, False))
    found.append(Bar("peak memory beside that row, of the projection", _median(peak), 1, False))
    return found


def bars_table(run: Run) -> Table:
    """The goals as a table."""
    table = [["goal", "wanted", "measured", ""]]
    for bar in bars(run):
        sign = ">=" if bar.at_least else "<="
        value = "not measured" if bar.value is None else f"{bar.value:.2f}{bar.unit}"
        verdict = "" if bar.value is None else ("reached" if bar.reached else "MISSED")
        table.append([bar.name, f"{sign} {bar.limit:g}{bar.unit}", value, verdict])
    return table


def markdown(table: Table) -> str:
    """A table in Markdown, padded so that it reads well in a terminal too."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def document(run: Run, facts: Mapping[str, str]) -> Iterator[str]:
    """The paragraphs of the report."""
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    for title, table in (
        ("Goals", bars_table(run)),
        ("Closed loops", loops_table(run)),
        ("Joining running streams", joins_table(run)),
        ("Without a server", embedded_table(run)),
    ):
        if len(table) > 1:
            yield f"## {title}"
            yield markdown(table)


def _cost(run: Run, scenario: str) -> float | None:
    """Per cent of our own speed that a feature costs against plain sampling."""
    by_round = zip(
        run.servers.get(scenario, {}).get(OURS, ()),
        run.servers.get("sampled-16", {}).get(OURS, ()),
        strict=False,
    )
    name = "tokens_per_second"
    return _median([100 * (1 - a[name] / b[name]) for a, b in by_round if name in a and name in b])


def _each(run: Run, scenario: str, value: Callable[[Metrics], float]) -> float | None:
    rounds = run.servers.get(scenario, {}).get(OURS, ())
    return _median([value(metrics) for metrics in rounds if "problem" not in metrics])


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _notes(rounds: Sequence[Metrics]) -> str:
    problems = [str(m["problem"]).splitlines()[0][:100] for m in rounds if "problem" in m]
    if problems:
        return problems[0].replace("|", "/")
    early = sum(m.get("early", 0) for m in rounds)
    return f"{early} replies ended early" if early else ""
