"""The command: it looks at everything, one after the other, and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from budmlx.cli.doctor import machine, machines, software
from budmlx.cli.doctor.finding import Finding
from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.terminal import plain_console, printable
from budmlx.config.sources import load_config
from budmlx.engine.load.library.library import Library
from budmlx.errors import BudmlxError
from budmlx.plugins.manager import Plugins

Check = Callable[[], Finding | Iterable[Finding]]
MARKS = {"good": "ok", "note": "note", "fault": "FAULT"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    hosts: Annotated[
        Path | None,
        typer.Option(
            "--machines",
            metavar="FILE",
            help="Look at the machines of this hostfile instead: links, speed, what a model gains.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --machines: measure this model on one, on all."),
    ] = None,
) -> None:
    """Look for what keeps models from running well on this machine.

    Each finding says what to do about it. The exit code is 1 if something does not work.
    """
    findings = []
    with Console(stderr=True).status("Looking") as status:
        for subject, check in machines.checks(hosts, model) if hosts else checks(config):
            status.update(f"Looking at {subject}")
            for finding in _found(subject, check):
                findings.append(finding)
                if not as_json:
                    _show(finding)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


def checks(config: Path | None) -> Iterator[tuple[str, Check]]:
    """What is looked at, by its name."""
    yield "Python", machine.python
    yield "System", machine.system
    yield "MLX", machine.device
    yield "Disk", machine.disk
    yield "Open files", machine.open_files
    yield "Panics", machine.panic
    yield "Hub", software.hub
    try:
        loaded = load_config({}, config)
        found = Plugins.load(loaded.config)
    except BudmlxError as error:
        problem = Finding("Configuration", "fault", error.message)
        yield "Configuration", lambda: problem
        return
    yield "Configuration", lambda: software.configuration(loaded)
    yield "Port", lambda: software.port(loaded.config)
    yield "Plugins", lambda: software.plugins(found)
    yield "Models", lambda: software.models(Library.of(loaded.config, found))


def _found(subject: str, check: Check) -> Iterator[Finding]:
    """The findings of a check. One that fails is a finding, and the others go on."""
    try:
        result = check()
        yield from [result] if isinstance(result, Finding) else result
    except Exception as error:
        reason = error.message if isinstance(error, BudmlxError) else f"{error!r}"
        yield Finding(subject, "fault", f"it cannot be looked at: {reason}")


def _show(finding: Finding) -> None:
    console = plain_console()
    line = f"{MARKS[finding.state]:5} {finding.subject}: {finding.text}"
    console.print(printable(line), soft_wrap=True)
    if finding.advice:
        console.print(printable(f"      {finding.advice}"), soft_wrap=True)
