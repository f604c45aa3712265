"""Throughput and latency against users, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from bench.goals import median
from bench.rounds import Run

matplotlib.use("Agg")  # before pyplot: no window system is needed

import matplotlib.pyplot as plt

PANELS = (
    ("tokens_per_second", "tokens per second", 1.0),
    ("ttft_p50", "time to first token, p50 (ms)", 1000.0),
    ("itl_p95", "inter-token latency, p95 (ms)", 1000.0),
)
STYLES = {"greedy": "-", "sampled": "--"}


def save_plot(run: Run, path: Path, title: str) -> bool:
    """Write the picture; False when no scenario was run with several numbers of users."""
    lines = _lines(run)
    if not lines:
        return False
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 4.2), layout="constrained")
    servers = sorted({server for server, _ in lines})
    for axis, (metric, label, factor) in zip(axes, PANELS, strict=True):
        for (server, kind), rounds_of in lines.items():
            points = [
                (users, value * factor)
                for users, rounds in sorted(rounds_of.items())
                if (value := median(rounds, metric)) is not None
            ]
            axis.plot(
                *zip(*points, strict=True),
                STYLES[kind],
                marker="o",
                color=f"C{servers.index(server)}",
                label=f"{server}, {kind}",
            )
        axis.set(xlabel="concurrent users", ylabel=label, xscale="log", ylim=(0, None))
        ticks = sorted({users for rounds_of in lines.values() for users in rounds_of})
        axis.set_xticks(ticks, [str(users) for users in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _lines(run: Run) -> dict[tuple[str, str], dict[int, list[dict[str, float]]]]:
    """(server, kind of sampling) -> users -> metrics of the rounds."""
    lines: dict[tuple[str, str], dict[int, list[dict[str, float]]]] = {}
    for scenario, by_server in run.servers.items():
        kind, _, users = scenario.rpartition("-")
        if kind not in STYLES:
            continue
        for server, rounds in by_server.items():
            if median(rounds, "tokens_per_second") is not None:
                lines.setdefault((server, kind), {})[int(users)] = rounds
    return {key: rounds for key, rounds in lines.items() if len(rounds) > 1}
