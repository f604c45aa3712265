"""Numbers with their units, for readers."""

from __future__ import annotations


def size_text(count: int) -> str:
    """A number of bytes, such as `12.0 GiB`, in the largest unit of which it has one."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
