"""Links: connections between the processes of ranks, with TLS where there is a certificate.

There is no authority to ask: who connects knows the digest of the one certificate that it takes.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time

import msgspec

# Seconds of a handshake.
_TLS_SECONDS = 5.0
_RETRY_SECONDS = 0.05


class Certificate(msgspec.Struct, frozen=True):
    """PEM files with a certificate chain and its key, of who listens."""

    chain: str
    key: str

    def digest(self) -> str:
        """What those who connect must know, in hexadecimal digits.

        Raises:
            OSError, ValueError: there is no certificate in the file.
        """
        with open(self.chain, encoding="ascii") as file:
            text = file.read()
        end = "-----END CERTIFICATE-----"
        first = text[: text.index(end) + len(end)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first.strip())).hexdigest()


def address(text: str) -> tuple[str, int]:
    """HOST:PORT in two parts. Raises ValueError."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(where: str, backlog: int = 16) -> socket.socket:
    """A socket that listens on HOST:PORT. Raises OSError."""
    host, port = address(where)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)


def accepted(connection: socket.socket, certificate: Certificate | None) -> socket.socket | None:
    """A connection that was accepted, ready to be used; None, and closed, if that fails."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_TLS_SECONDS)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.chain, certificate.key, password=b"")
            connection = context.wrap_socket(connection, server_side=True)
        connection.settimeout(None)
    except OSError:
        connection.close()
        return None
    return connection


def connect(where: str, seconds: float, digest: str = "") -> socket.socket:
    """A connection to HOST:PORT, where somebody may listen only later.

    digest: of the certificate that must be there; empty for a connection without TLS.

    Raises:
        OSError: nobody answered within `seconds`, or not with that certificate.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(address(where), max(end - time.monotonic(), 0.1))
            break
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if digest:
        connection = _checked(connection, digest)
    connection.settimeout(None)
    return connection


def _checked(connection: socket.socket, digest: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection.settimeout(_TLS_SECONDS)
    try:
        secured = context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise
    found = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
    if not hmac.compare_digest(found, digest.lower()):
        secured.close()
        raise OSError(f"its certificate has the digest {found}, not {digest}")
    return secured
