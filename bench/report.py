"""Tables of a run: medians over its rounds, ratios to each peer, and the bars to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.contestants import NO_REUSE, OURS
from bench.goals import ADAPTERS, bars, each, efficiency, median, quotient, ratio, ratio_of
from bench.measure import Metrics
from bench.rounds import Run

Table = list[list[str]]


def loops_table(run: Run) -> Table:
    """Throughput and latencies of the closed loops."""
    table = [
        ["scenario", "server", "tok/s", "budmlx is", "TTFT p50", "p95", "ITL p50", "p95", "notes"]
    ]
    for scenario, by_server in run.servers.items():
        for server, rounds in by_server.items():
            joins = any("quiet_p50" in metrics for metrics in rounds)
            if joins or scenario.startswith(("turns", "first")) or server == NO_REUSE:
                continue
            share = None if server == OURS else ratio(run, scenario, OURS, server)
            latencies = (
                _milliseconds(median(rounds, name))
                for name in ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95")
            )
            speed = median(rounds, "tokens_per_second")
            table.append(
                [
                    scenario,
                    server,
                    _count(speed),
                    _times(share),
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


def first_table(run: Run) -> Table:
    """The first concurrent requests of servers that have just started."""
    table = [["scenario", "server", "first 16", "second 16", "ratio", "notes"]]
    for server, rounds in run.servers.get("first-16", {}).items():
        times = (_milliseconds(median(rounds, name)) for name in ("first", "second"))
        share = _times(quotient(rounds, "first", "second"))
        table.append(["first-16", server, *times, share, _notes(rounds)])
    return table


def embedded_table(run: Run) -> Table:
    """The model alone, the core and the Engine with greedy rows."""
    table = [["steady decode", "16 rows, tok/s", "of the bare loop", "1 row", "of the bare loop"]]
    for what in ("bare", "core", "engine"):
        if rounds := run.embedded.get(what):
            cells = []
            for name in ("tokens_per_second", "single_tokens_per_second"):
                share = efficiency(run, what, name)
                cells += [_count(median(rounds, name)), "" if share is None else f"{share:.2f}"]
            cells[0] = cells[0] or _notes(rounds)
            table.append([what, *cells])
    if limit := median(run.embedded.get("bare", ()), "closed_loop_tokens_per_second"):
        label = "the most for greedy-16, prompts one by one"
        table.append([label, f"{limit:.0f}", "", "", ""])
    return table


def prefill_table(run: Run) -> Table:
    """A long prompt alone: in the Engine, and in the bare loop by its chunk."""
    rounds = run.embedded.get("prefill", [])
    length = _count(median(rounds, "prompt_tokens"))
    table = [[f"prefill of {length} tokens alone", "tok/s", "of the best chunk", "notes"]]
    if not rounds:
        return table
    speed = _count(median(rounds, "tokens_per_second"))
    share = _times(quotient(rounds, "tokens_per_second", "best_tokens_per_second"))
    table.append(["Engine", speed, share, _notes(rounds)])
    for chunk in rounds[0].get("chunks", {}):
        rate = _count(each(rounds, lambda m, chunk=chunk: m["chunks"][chunk]))  # type: ignore[misc]
        table.append([f"bare loop, chunks of {chunk}", rate, "", ""])
    return table


def steps_table(run: Run) -> Table:
    """Steps of sampled rows against greedy ones, and the host's work in a step."""
    table = [["a step", "of it", "against", "ratio", "notes"]]
    rounds = run.embedded.get("sampled-step", [])
    for logits in ("peaked", "flat") if rounds else ():
        cells = (median(rounds, f"{logits}_{kind}") for kind in ("sampled", "greedy"))
        share = _times(quotient(rounds, f"{logits}_sampled", f"{logits}_greedy"))
        label = f"16 rows with top_p, {logits} logits, against greedy"
        table.append([label, *map(_fine, cells), share, _notes(rounds)])
    rounds = run.embedded.get("adapters", [])
    for weights in ("float32", "4bit"):
        none = median(rounds, f"{weights}_none")
        for kind, label in ADAPTERS.items() if none else ():
            name = f"{weights}_{kind}"
            share = _times(quotient(rounds, name, f"{weights}_none"))
            label = f"{label}, {weights}, 16 rows, against none"
            table.append([label, _fine(median(rounds, name)), _fine(none), share, _notes(rounds)])
    rounds = run.embedded.get("models", [])
    if rounds:
        one, turns = (median(rounds, name) for name in ("one", "turns"))
        share = _times(quotient(rounds, "turns", "one"))
        label = "first token, two loaded models in turns, against one"
        table.append([label, _fine(turns), _fine(one), share, _notes(rounds)])
    work = run.embedded.get("host-work", [])
    for kind, label in (("single", "1 row"), ("sixteen", "16 rows")) if work else ():
        ours, theirs = (median(work, f"{prefix}{kind}_host") for prefix in ("", "baseline_"))
        share = _times(quotient(work, f"{kind}_host", f"baseline_{kind}_host")) if theirs else ""
        cells = (_micros(ours), _micros(theirs))
        table.append([f"host's work, {label}, against --baseline", *cells, share, _notes(work)])
    return table


def turns_table(run: Run) -> Table:
    """Conversations."""
    table = [
        [
            "scenario",
            "server",
            "total",
            "budmlx takes",
            "TTFT p50",
            "tokens computed",
            "distinct",
            "notes",
        ]
    ]
    for scenario, by_server in run.servers.items():
        for server, rounds in by_server.items():
            if not scenario.startswith("turns"):
                continue
            share = None if server == OURS else ratio(run, scenario, OURS, server, "total")
            table.append(
                [
                    scenario,
                    server,
                    _milliseconds(median(rounds, "total")),
                    _times(share),
                    _milliseconds(median(rounds, "ttft_p50")),
                    _count(median(rounds, "computed")),
                    _count(median(rounds, "distinct")),
                    _notes(rounds),
                ]
            )
    return table


def reuse_table(run: Run) -> Table:
    """The time that stored KV saves, and the cost of looking for it where there is none."""
    table = [["KV reuse", "with", "without", "ratio", "notes"]]
    if rounds := run.embedded.get("prefix"):
        cold = _milliseconds(median(rounds, "cold"))
        for name, label in (
            ("hit", "TTFT of 50 tokens after 4,000 in memory"),
            ("disk", "the same, on disk"),
            ("in_place", "the same in place, the model alone"),
        ):
            share = _times(quotient(rounds, name, "cold"), digits=3)
            value = _milliseconds(median(rounds, name))
            table.append([label, value, cold, share, _notes(rounds)])
    for scenario, by_server in run.servers.items():
        if others := by_server.get(NO_REUSE):
            ours = by_server.get(OURS, [])
            speeds = (_count(median(both, "tokens_per_second")) for both in (ours, others))
            label = f"{scenario}, nothing matches, tok/s"
            table.append([label, *speeds, _times(ratio_of(ours, others)), _notes(others)])
    return table


def pictures_table(run: Run) -> Table:
    """Throughput and latency of users who send pictures."""
    table = [["16 users, each with a picture", "tok/s", "TTFT p50", "notes"]]
    if not (rounds := run.embedded.get("images")):
        return table
    for kind, label in (("", "a new one"), ("seen_", "one that was seen before")):
        speed = _count(median(rounds, f"{kind}tokens_per_second"))
        wait = _milliseconds(median(rounds, f"{kind}ttft_p50"))
        table.append([label, speed, wait, _notes(rounds)])
    gains = (quotient(rounds, f"seen_{name}", name) for name in ("tokens_per_second", "ttft_p50"))
    table.append(["the second against the first", *map(_times, gains), ""])
    return table


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
    """The paragraphs of the report on one device."""
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    for title, table in (
        ("Goals", bars_table(run)),
        ("First load", first_table(run)),
        ("Closed loops", loops_table(run)),
        ("Joining running streams", joins_table(run)),
        ("Conversations", turns_table(run)),
        ("Without a server", embedded_table(run)),
        ("Prefill", prefill_table(run)),
        ("Steps", steps_table(run)),
        ("KV reuse", reuse_table(run)),
        ("Pictures", pictures_table(run)),
    ):
        if len(table) > 1:
            yield f"### {title}"
            yield markdown(table)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _fine(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f} ms"


def _micros(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} us"


def _times(factor: float | None, digits: int = 2) -> str:
    return "" if factor is None else f"{factor:.{digits}f}x"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _notes(rounds: Sequence[Metrics]) -> str:
    problems = [str(m["problem"]).splitlines()[0][:100] for m in rounds if "problem" in m]
    if problems:
        return problems[0].replace("|", "/")
    early = sum(m.get("early", 0) for m in rounds)
    return f"{early} replies ended early" if early else ""
