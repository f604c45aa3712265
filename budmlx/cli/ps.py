"""`budmlx ps`: the models that a running server has loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.running_server import RunningServer
from budmlx.cli.terminal import plain_console, printable
from budmlx.units import size_text

COLUMNS = ("Model", "State", "Weights", "In use", "At most", "Requests", "Context", "Other names")


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """List the models that a running server has loaded.

    The server is the one of BUDMLX_BASE_URL, else the one that the configuration would start.
    """
    server = RunningServer.find(config)
    entries = server.models()
    shown = [each for each in entries if each["id"] == each["root"] and _present(each)]
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    console = plain_console()
    if not any("residence" in each or each["state"] != "failed" for each in shown):
        console.print(f"No model is loaded at {server.url}.", soft_wrap=True)
    else:
        console.print(_table(shown, entries))
    for each in shown:
        if error := each.get("error"):
            console.print(printable(f"{each['id']} failed: {error}"), soft_wrap=True)


def _present(entry: dict[str, Any]) -> bool:
    return bool(entry["state"] != "unloaded")


def _table(shown: list[dict[str, Any]], entries: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for each in shown:
        others = [one["id"] for one in entries if one["root"] == each["id"] != one["id"]]
        table.add_row(
            printable(each["id"]), *_columns(each), printable(", ".join(others)) if others else ""
        )
    return table


def _columns(entry: dict[str, Any]) -> tuple[str, ...]:
    """State, bytes, requests and context."""
    context = f"{entry['max_model_len']:,}" if entry.get("max_model_len") else ""
    residence = entry.get("residence")
    if residence is None:
        return entry["state"], "", "", "", "", context
    state = entry["state"] + (", pinned" if residence["pinned"] else "")
    sizes = (size_text(residence[name]) for name in ("weights", "active", "limit"))
    return state, *sizes, str(residence["requests"]), context
