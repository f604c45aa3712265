"""The API keys of a running server, read again when their file changes."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from budmlx.config import ServerConfig
from budmlx.config.keys import ApiKey, KeyFile, digest_of, parsed, text_of
from budmlx.errors import ConfigError

log = logging.getLogger(__name__)

Stamp = tuple[int, ...] | None


class KeyRing:
    """Who may come in. Not thread-safe.

    required: requests need a key.

    Raises:
        ConfigError: the file is unusable or holds no key, or a key could never be sent.
    """

    def __init__(self, config: ServerConfig):
        self._told = ""
        self.configure(config)

    def configure(self, config: ServerConfig) -> None:
        """Take other settings, and read the file anew.

        Raises:
            ConfigError: see the class; nothing has changed then.
        """
        config.accepted_keys()
        admin = [digest_of(key) for key in config.accepted_admin_keys()]
        path = config.api_key_file and config.api_key_file.expanduser()
        seen, file = _stamp(path), config.key_file()
        self.required = config.needs_key
        self._path, self._seen, self._admin = path, seen, admin
        self._given = [digest_of(key.get_secret_value()) for key in config.api_keys]
        self._keys = self._with(file)

    @property
    def has_admin(self) -> bool:
        """Whether there is a key with admin rights."""
        return any(key.admin for key in self._keys.values())

    @property
    def all(self) -> Sequence[ApiKey]:
        """Every key, by its name."""
        return sorted(self._keys.values(), key=lambda key: key.name)

    def find(self, candidates: Iterable[str]) -> ApiKey | None:
        """What is known of the first of these that is a key, be its time over or not."""
        self._refresh()
        found = _matching([digest_of(each) for each in candidates], self._keys)
        return None if found is None else self._keys[found]

    def _refresh(self) -> None:
        """Read the file again if it has changed. One that is wrong changes nothing."""
        if self._path is None or (stamp := _stamp(self._path)) == self._seen:
            return
        try:
            self._keys = self._with(parsed(text_of(self._path)))
        except ConfigError as error:
            # It may be complete, or readable, at the next look.
            if error.message != self._told:
                log.warning("The former API keys stay in use. %s", error.message)
            self._told = error.message
        else:
            self._seen, self._told = stamp, ""
            log.info("The API keys in %s are used from now on: %d.", self._path, len(self._keys))

    def _with(self, file: KeyFile | None) -> Mapping[bytes, ApiKey]:
        """The keys with those of a file. Whoever may do more may do the rest, too."""
        plain = [digest_of(key) for key, _ in file.plain] if file else []
        found = {
            digest: ApiKey(f"admin-{place}", digest.hex(), admin=True)
            for place, digest in enumerate(dict.fromkeys(self._admin), 1)
        }
        for place, digest in enumerate(dict.fromkeys([*self._given, *plain]), 1):
            found[digest] = ApiKey(f"key-{place}", digest.hex(), admin=digest in found)
        return found | {each.digest: each for each in (file.records if file else ())}


def _stamp(path: Path | None) -> Stamp:
    """What is different once a file was changed."""
    try:
        found = path and path.stat()
    except OSError:
        return None
    if not found:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _matching(candidates: Collection[bytes], digests: Collection[bytes]) -> bytes | None:
    # Every pair is compared, so that the time does not reveal which one came close.
    matches = [
        (hmac.compare_digest(one, known), known) for one in candidates for known in digests
    ]  # fmt: skip
    return next((known for same, known in matches if same), None)
