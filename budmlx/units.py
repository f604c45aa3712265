"""Numbers with their units, for readers."""

from __future__ import annotations


def size_text(count: int) -> str:
    """A number of bytes, such as `12.0 GiB`."""
    unit, size = ("MiB", 2**20) if count < 2**30 else ("GiB", 2**30)
    return f"{count / size:.1f} {unit}"
