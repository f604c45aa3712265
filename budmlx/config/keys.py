"""API keys in a file: whole ones, one a line, and records of those that `budmlx keys` made."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from budmlx.errors import ConfigError

BY_PLACE = re.compile(r"(key|admin)-[0-9]+")
"""Names that keys without one have, by their places."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Model = Annotated[str, Meta(min_length=1, max_length=1024)]
Time = Annotated[datetime, Meta(tz=True)]


class ApiKey(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is known of an API key; the key itself is known to its owner only.

    name: for logs and metrics. sha256: of the key. admin: it may load and delete models, too.
    rpm: most requests per minute; None for the setting of all. tokens_per_day: of prompts and
    replies; None for any number. models: names of those that it may use; none stand for all.
    expires: when it ends; None for never. background: its requests run on what others leave.
    """

    name: Name
    sha256: Digest
    admin: bool = False
    rpm: Positive | None = None
    tokens_per_day: Positive | None = None
    models: tuple[Model, ...] = ()
    expires: Time | None = None
    background: bool = False

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        return bytes.fromhex(self.sha256)

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires.timestamp() <= time.time()


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a file of keys says. plain: whole keys, with their places as errors name them."""

    plain: Sequence[tuple[str, str]]
    records: Sequence[ApiKey]


def digest_of(key: str) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def text_of(path: Path) -> str:
    """The text of a file of keys. Raises ConfigError if it cannot be read."""
    try:
        return path.expanduser().read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"api_key_file: cannot read {path}: {reason}.", param="api_key_file"
        ) from error


def parsed(text: str) -> KeyFile:
    """The keys in a text. Blank lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: a key could never be sent, or a record is wrong; it names the line.
    """
    plain: list[tuple[str, str]] = []
    records: dict[str, ApiKey] = {}
    for place, line in _lines(text):
        if not is_record(line):
            check_usable(line, place)
            plain.append((line, place))
            continue
        record = _record(line, place)
        if record.name in records:
            raise ConfigError(f"{place}: {record.name} has a key above.", param="api_key_file")
        records[record.name] = record
    return KeyFile(plain, tuple(records.values()))


def is_record(line: str) -> bool:
    """Whether a line is the record of a key; else it is a key."""
    return line.startswith("{") and '"sha256"' in line


def line_of(record: ApiKey) -> str:
    """The line of a record, without its end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=0).decode()


def check_name(name: str) -> None:
    """Refuse what no record can be called. Raises ConfigError."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        known = False
    else:
        known = not BY_PLACE.fullmatch(name)
    if not known:
        raise ConfigError(
            f"{name[:100]!r} cannot be the name of a key: it has at most 64 letters, digits, dots, "
            "dashes, underscores and at signs, and is not like key-1.",
            param="name",
        )


def check_usable(key: str, place: str) -> None:
    """Refuse a key that could never be sent. Raises ConfigError."""
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"{place}: a key must be one word of visible ASCII characters.", param=place
        )


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """The lines that are not comments, each behind its place."""
    # Names of models in records may hold what `splitlines` takes for the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if (line := line.strip()) and not line.startswith("#"):
            yield f"api_key_file: line {number}", line


def _record(line: str, place: str) -> ApiKey:
    try:
        record = msgspec.json.decode(line, type=ApiKey)
        check_name(record.name)
    except (msgspec.DecodeError, ConfigError) as error:
        # What it quotes is a name or the place of a value, never a key.
        raise ConfigError(f"{place}: {str(error).rstrip('.')}.", param="api_key_file") from error
    return record
