"""Writes those parts of the documentation that repeat the code: `make docs`.

A generated part of a page stands between `<!-- generated: NAME -->` and `<!-- end -->`; a page
of `WHOLE` is generated altogether. `test_generated` checks that all of them are current.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from budmlx.plugins.reference import reference
from tests.docs import prometheus, tables
from tests.docs.pages import DOCS, guides, name
from tests.docs.parameters import parameters
from tests.docs.settings import settings

WHOLE: Mapping[Path, Callable[[], str]] = {
    DOCS / "hooks.md": reference,
    DOCS / "prometheus" / "dashboard.json": prometheus.dashboard,
    DOCS / "prometheus" / "vllm.yml": prometheus.as_vllm,
}

PARTS: Mapping[str, Callable[[], str]] = {
    "commands": tables.commands,
    "endpoints": tables.endpoints,
    "errors": tables.errors,
    "hooks": tables.hooks,
    "limits": tables.limits,
    "metrics": prometheus.metrics,
    "metrics-of-vllm": prometheus.of_vllm,
    "parameters": parameters,
    "settings": settings,
    "statuses": tables.statuses,
}

_PART = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def generated() -> list[Path]:
    """The pages that are generated or have generated parts."""
    return [*WHOLE, *(page for page in guides() if _PART.search(page.read_text("utf-8")))]


def current(page: Path) -> str:
    """A page's text as it must be."""
    if page in WHOLE:
        return WHOLE[page]()
    return _PART.sub(
        lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[4]}", page.read_text("utf-8")
    )


def parts(page: Path) -> list[str]:
    """The names of a page's generated parts."""
    return [match[2] for match in _PART.finditer(page.read_text("utf-8"))]


def main() -> None:
    """Rewrite what is out of date."""
    for page in generated():
        if (text := current(page)) != page.read_text("utf-8"):
            page.write_text(text, "utf-8")
            print(f"Wrote {name(page)}")


if __name__ == "__main__":
    main()
