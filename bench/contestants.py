"""Contestants: the servers that are compared, and the commands that start them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = "budmlx"
NO_REUSE = "budmlx-no-reuse"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server. `command` lacks the port; `model` is the name in requests, None asks it.

    only: the scenarios that it runs, if not all.
    """

    name: str
    command: Sequence[str]
    model: str | None = None
    only: Sequence[str] = ()


def contestants(model: Path, wanted: Sequence[str] = ()) -> tuple[list[Contestant], list[str]]:
    """The installed contestants, ours first, and why the others are left out."""
    run = (sys.executable, "-m")
    path = str(model)
    known = {
        OURS: (Contestant(OURS, [*run, "budmlx", "serve", path]), "budmlx"),
        NO_REUSE: (
            Contestant(
                NO_REUSE,
                [*run, "budmlx", "serve", path, "--prefix-cache", "0"],
                only=("greedy-16", "sampled-16"),
            ),
            "budmlx",
        ),
        "mlx_lm.server": (
            # Fewer log lines than by default, which can only help it.
            Contestant(
                "mlx_lm.server",
                [*run, "mlx_lm.server", "--model", path, "--log-level", "WARNING"],
                "default_model",
            ),
            "mlx_lm",
        ),
        "vllm-mlx": (
            Contestant("vllm-mlx", [*run, "vllm_mlx.cli", "serve", path, "--continuous-batching"]),
            "vllm_mlx",
        ),
        "mlx-vlm": (
            Contestant("mlx-vlm", [*run, "mlx_vlm.server", "--model", path], path),
            "mlx_vlm",
        ),
    }
    unknown = set(wanted) - set(known)
    if unknown:
        raise SystemExit(f"Unknown server {', '.join(unknown)}; known: {', '.join(known)}.")
    present, absent = [], []
    for name, (contestant, module) in known.items():
        if wanted and name not in wanted:
            absent.append(f"{name}: not asked for")
        elif importlib.util.find_spec(module) is None:
            absent.append(f"{name}: not installed in this environment")
        else:
            present.append(contestant)
    return present, absent
