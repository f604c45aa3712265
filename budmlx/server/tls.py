"""TLS: the certificate of a server, which may be renewed while it runs."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

from budmlx.config import ServerConfig
from budmlx.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How long the files are not looked at again."""

Stamps = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate chain and its key in PEM files, as an SSL context for a server.

    Connections that are open keep the certificate with which they began.
    """

    def __init__(self, chain: Path, key: Path):
        """Read the files. Raises ConfigError."""
        self._files = (chain.expanduser(), key.expanduser())
        try:
            self._seen = self._stamps()
            self._latest = self._loaded()
        except OSError as error:  # ssl.SSLError is one.
            raise ConfigError(
                f"{chain} and {key} are no certificate and its key: {_words(error)}.",
                param="tls_cert",
            ) from error
        self._looked_at = time.monotonic()
        self._told = ""
        self.context = self._latest
        self.context.sni_callback = self._greeted  # It is called for clients without names, too.

    @classmethod
    def of(cls, config: ServerConfig) -> Certificate | None:
        """That of a configuration; None without TLS. Raises ConfigError."""
        if config.tls_cert is None and config.tls_key is None:
            return None
        if config.tls_cert is None or config.tls_key is None:
            raise ConfigError("tls_cert and tls_key go together.", param="tls_cert")
        return cls(config.tls_cert, config.tls_key)

    def _greeted(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        """A client asks for the certificate."""
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            self.refresh()
        connection.context = self._latest

    def refresh(self) -> None:
        """Read the files again if they have changed. What does not fit together is not used."""
        self._looked_at = time.monotonic()
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return
            self._latest = self._loaded()
        except OSError as error:
            # They may be complete, or readable, at the next look.
            if (words := _words(error)) != self._told:
                log.warning("The former certificate stays in use: %s.", words)
            self._told = words
        else:
            self._seen, self._told = stamps, ""
            log.info("The certificate in %s is used from now on.", self._files[0])

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A passphrase would be asked for on a terminal, if there is one.
        context.load_cert_chain(*self._files, password=b"")
        return context

    def _stamps(self) -> Stamps:
        found = [file.stat() for file in self._files]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "the key belongs to another certificate or has a passphrase, or a file is not PEM"
    return f"{error.filename or 'one of the files'}: {error.strerror}"
