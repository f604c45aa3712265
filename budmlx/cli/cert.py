"""`budmlx cert`: a self-signed certificate, for machines of one network."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budmlx.directories import state_directory
from budmlx.errors import BudmlxError

if importlib.util.find_spec("cryptography") is not None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
elif not TYPE_CHECKING:
    x509 = None

DAYS = 825
"""Apple's systems refuse certificates that are valid for longer."""
# Nothing is sent there: it makes the system choose the address that other machines know.
ELSEWHERE = ("192.0.2.1", 9)


def cert(
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address of this machine, in place of those found; repeatable."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Where cert.pem and key.pem are written.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=DAYS, help="How long it is valid.")] = DAYS,
    force: Annotated[bool, typer.Option("--force", help="Replace the one that is there.")] = False,
) -> None:
    """Make a self-signed certificate for HTTPS.

    Programs on other machines must be told to trust cert.pem; its fingerprint shows that it is
    the one you made. A server that runs with these files takes the new ones within seconds.
    """
    if x509 is None:
        raise BudmlxError('This needs a package: pip install "budmlx[tls]".')
    folder = (directory or state_directory() / "tls").expanduser()
    chain, key = folder / "cert.pem", folder / "key.pem"
    if not force and (chain.exists() or key.exists()):
        raise BudmlxError(f"There is a certificate in {folder}; --force replaces it.")
    names = list(dict.fromkeys(host or own_names()))
    secret = ec.generate_private_key(ec.SECP256R1())
    made = _signed(secret, names, days)
    pem = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(key, pem, 0o600)
        _write(chain, made.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise BudmlxError(f"{error.filename} cannot be written: {error.strerror}.") from error
    typer.echo(f"Wrote {chain} and key.pem, for {', '.join(names)}, valid for {days} days.")
    typer.echo(f"SHA-256 fingerprint: {made.fingerprint(hashes.SHA256()).hex(':').upper()}")
    typer.echo(f"Serve with: budmlx serve --tls-cert {chain} --tls-key {key}")


def own_names() -> list[str]:
    """How programs here and in the local network call this machine."""
    name = socket.gethostname()
    found = ["localhost", "127.0.0.1", "::1", name]
    if not name.endswith(".local") and "." not in name:
        found.append(f"{name}.local")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
            found.append(probe.getsockname()[0])
        except OSError:
            pass  # There is no network.
    return found


def _signed(
    secret: ec.EllipticCurvePrivateKey, names: Iterable[str], days: int
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "budmlx")])
    # Clocks of other machines may be a little late.
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(list(map(_alternative, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise BudmlxError(f"{name!r} is no name of a machine.") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one go, so that a server never reads half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    new.replace(path)
