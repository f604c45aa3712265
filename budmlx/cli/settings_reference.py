"""The tables of all settings in the documentation, made from the fields.

`python -m budmlx.cli.settings_reference docs/configuration.md` writes them into a page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from budmlx.cli.flags import CONFIG_PARTS, has_flag, shown_default
from budmlx.config import ENV_PREFIX

BEGIN = "<!-- Written by `python -m budmlx.cli.settings_reference`; do not edit. -->"
END = "<!-- End of what is written. -->"


def with_reference(page: str) -> str:
    """A page with the tables of today between its two marks. Raises ValueError without marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return "\n".join([before + BEGIN, *_lines(), END + after])


def _lines() -> Iterator[str]:
    for heading, part in CONFIG_PARTS.items():
        yield f"\n### {heading}\n"
        yield "| TOML | Flag | Variable | Default | Meaning |"
        yield "|---|---|---|---|---|"
        for name, field in part.model_fields.items():
            flag = f"`{_flag(name)}`" if name == "model" or has_flag(name, field.annotation) else ""
            sentence = re.sub(r"[|*~]", r"\\\g<0>", field.description or "")
            cells = (f"`{name}`", flag, f"`{ENV_PREFIX}{name.upper()}`", _default(field.default))
            yield f"| {' | '.join(cells)} | {sentence} |"
    yield ""


def _flag(name: str) -> str:
    return "MODEL" if name == "model" else f"--{name.replace('_', '-')}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else f"`{shown_default(value)}`"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_reference(target.read_text("utf-8")), "utf-8")
