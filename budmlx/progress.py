"""Progress of what takes long, as calls. Every ring may import it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called with how much is done, and of how much."""

Notice = Callable[[str], object]
"""Called with words for what is being done now."""
