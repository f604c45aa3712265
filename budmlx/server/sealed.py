"""Sealed texts: what a client keeps for the server and brings back unchanged.

They are signed with a key of this installation, not encrypted: their content is the client's own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import secrets
import zlib
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from budmlx.directories import state_directory
from budmlx.errors import InvalidRequestError

log = logging.getLogger(__name__)

PREFIX = "bmlx1_"
KEY_BYTES = 32
MAC_BYTES = 16
MOST_OPENED = 64 * 2**20
"""Bytes of all texts that one request brings back: they are a thousandth of it while sealed."""


class Sealer:
    """Signs texts and reads them again.

    path: of the file with the key, which is made, readable by its owner alone, when it is first
    needed; by default in the user's state directory. Where that cannot be, the key lives as long
    as this object.
    """

    def __init__(self, path: Path | None = None):
        self._path = path

    def seal(self, text: str) -> str:
        """The text in a form that `opened` reads."""
        data = zlib.compress(text.encode("utf-8"))
        return PREFIX + base64.urlsafe_b64encode(self._mac(data) + data).decode("ascii")

    def opened(self, sealed: str, most: int = MOST_OPENED) -> str | None:
        """The text that was sealed; None for anything that this installation did not write.

        Raises ValueError when it has more than `most` bytes.
        """
        if not sealed.startswith(PREFIX):
            return None
        try:
            raw = base64.b64decode(sealed[len(PREFIX) :], altchars=b"-_", validate=True)
        except ValueError:
            return None
        mac, data = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(data)):
            return None
        reader = zlib.decompressobj()
        text = reader.decompress(data, most + 1)  # 0 would be no bound
        if len(text) > most:
            raise ValueError(f"a sealed text has more than {most} bytes")
        return text.decode("utf-8")

    def _mac(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)[:MAC_BYTES]

    @cached_property
    def _key(self) -> bytes:
        path = self._path or state_directory() / "seal.key"
        try:
            return _key_in(path)
        except OSError as error:
            log.warning(
                "%s cannot be used (%s): reasoning that clients bring back is understood until "
                "this server ends.",
                path,
                error.strerror,
            )
            return secrets.token_bytes(KEY_BYTES)


class Opener:
    """Opens the sealed texts of one request, which are not too long together."""

    def __init__(self, sealer: Sealer):
        self._sealer = sealer
        self._room = MOST_OPENED

    def opened(self, sealed: str, place: str) -> str | None:
        """See `Sealer.opened`. place: of the text in the request.

        Raises InvalidRequestError when the texts are too long.
        """
        try:
            text = self._sealer.opened(sealed, self._room)
        except ValueError:
            raise InvalidRequestError(
                f"`{place}` makes the sealed reasoning longer than {MOST_OPENED} bytes together.",
                param=place,
            ) from None
        if text is not None:
            self._room -= len(text.encode("utf-8"))
        return text


def _key_in(path: Path) -> bytes:
    """The key in a file, which is made if need be. Raises OSError."""
    with suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) >= KEY_BYTES:
            return key
        path.unlink(missing_ok=True)  # a machine that went down while it was written
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    # Complete under another name first, so that no other process reads half of it, and linked, so
    # that of two processes only one makes the key.
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    try:
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
    return path.read_bytes()
