"""Kept results: `RESULTS.md` with one section for each device, and their records beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from bench.machine import Device
from bench.report import document
from bench.rounds import Run

LEAD = """# Results of the last kept runs

`make bench` measures on whatever device there is; `python -m bench --write-results` also
replaces this device's section here. TTFT is the time to the first token, ITL the time between
tokens of one stream, both as the client sees them. Values are medians over the rounds of one
run; "budmlx is" compares tokens per second of the same round.
"""


def keep(
    run: Run,
    facts: Mapping[str, str],
    device: Device,
    place: Path,
    save_plot: Callable[[Run, Path, str], bool],
) -> None:
    """Write record and picture of a run to `place`, and its section of the file there.

    save_plot: writes a picture with a title; False where the run gives nothing to draw.
    """
    place.mkdir(parents=True, exist_ok=True)
    record = {"facts": facts, **asdict(run)}
    (place / f"{device.slug}.json").write_text(json.dumps(record, indent=1) + "\n")
    picture = f"{device.slug}.png"
    parts = list(document(run, facts))
    if save_plot(run, place / picture, facts["model"]):
        parts.append(f"![throughput and latency against users]({picture})")
    file = place / "RESULTS.md"
    former = file.read_text() if file.exists() else LEAD
    file.write_text(with_section(former, device.name, "\n\n".join(parts)))


def with_section(text: str, title: str, body: str) -> str:
    """A document with the section `title` replaced, or added at its end."""
    lead, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    section = f"## {title}\n\n{body.strip()}\n"
    for number, each in enumerate(sections):
        if each.splitlines()[0] == f"## {title}":
            sections[number] = section
            break
    else:
        sections.append(section)
    return "\n\n".join(part.strip() for part in (lead, *sections)) + "\n"
