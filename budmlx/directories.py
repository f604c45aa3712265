"""Directories of the user's in which budmlx keeps files."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """Where budmlx keeps what it can compute again: in the user's cache.

    On a Mac that is a directory which Time Machine leaves out.
    """
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "budmlx"


def state_directory() -> Path:
    """Where budmlx keeps what it cannot compute again: keys, and what clients store with it."""
    usual = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"
    return Path(os.environ.get("XDG_STATE_HOME") or usual).expanduser() / "budmlx"
