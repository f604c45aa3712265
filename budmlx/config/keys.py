"""API keys in a file."""

from __future__ import annotations

from pathlib import Path

from budmlx.errors import ConfigError


def keys_in(path: Path) -> list[tuple[str, str]]:
    """The keys in a file, one on each line, with their places as errors name them.

    Blank lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file is unreadable or empty.
    """
    try:
        lines = path.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"api_key_file: cannot read {path}: {reason}.", param="api_key_file"
        ) from error
    keys = [
        (line.strip(), f"api_key_file: line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not keys:
        raise ConfigError(
            f"api_key_file: {path} holds no key; write one per line.", param="api_key_file"
        )
    return keys
