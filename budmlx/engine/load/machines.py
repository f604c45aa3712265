"""Hostfiles: the machines of a model, in the format of `mlx.launch`."""

from __future__ import annotations

import ipaddress
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.protocol.links import Certificate
from budmlx.protocol.machines import Machine, Machines

FORMAT = """a list with one {"ssh": NAME, "ips": [ADDRESS]} for each machine, this one first"""
_SECRET_LETTERS = 16


def read_machines(config: Config) -> Machines | None:
    """The machines that the configuration names; None if it names none.

    Raises:
        ConfigError: the hostfile, or what belongs to it, cannot be used.
    """
    if config.machines is None:
        return None
    path = config.machines.expanduser()
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(path, str(error)) from error
    file = data if isinstance(data, dict) else {"hosts": data}
    hosts, envs = file.get("hosts"), file.get("envs", [])
    backend = file.get("backend") or "ring"
    if not isinstance(hosts, list) or len(hosts) < 2:
        raise _wrong(path, f"it must be {FORMAT}, and have two of them or more")
    if backend not in ("ring", "jaccl"):
        raise _wrong(path, f"its backend is {backend!r}, and can be ring or jaccl")
    if not isinstance(envs, list) or not all(isinstance(e, str) and "=" in e for e in envs):
        raise _wrong(path, "envs must be a list of NAME=VALUE")
    if config.ranks not in (1, len(hosts)):
        raise ConfigError(
            f"ranks is {config.ranks}, but {path} has {len(hosts)} machines; leave it out.",
            param="ranks",
        )
    return Machines(
        each=[_machine(path, number, host, backend) for number, host in enumerate(hosts)],
        secret=secrets.token_hex(32) if config.join_token is None else secret_of(config.join_token),
        port=config.join_port,
        certificate=_certificate(config),
        envs=envs,
        backend=backend,
    )


def secret_of(path: Path) -> str:
    """The secret in a file. Raises ConfigError."""
    try:
        text = path.expanduser().read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"join_token: {path} cannot be read: {error}", param="join_token"
        ) from error
    return checked_secret(text, str(path))


def checked_secret(text: str, where: str) -> str:
    """A secret that is long enough. Raises ConfigError."""
    if len(text) < _SECRET_LETTERS:
        raise ConfigError(
            f"join_token: the secret in {where} must have at least {_SECRET_LETTERS} letters; "
            "make one with: openssl rand -hex 32",
            param="join_token",
        )
    return text


def _machine(path: Path, number: int, host: Any, backend: str) -> Machine:
    entry: dict[str, Any] = host if isinstance(host, dict) else {}
    ips, ssh = entry.get("ips"), entry.get("ssh") or ""
    python, rdma = entry.get("python", sys.executable), entry.get("rdma") or []
    try:
        ip = str(ipaddress.ip_address((ips or [""])[0]))
    except (TypeError, LookupError, ValueError) as error:
        raise _wrong(
            path, f"machine {number} has no address in ips; it must be {FORMAT}"
        ) from error
    if not isinstance(ssh, str) or not isinstance(python, str) or ssh.startswith("-"):
        raise _wrong(path, f"ssh and python of machine {number} must be names")
    if backend == "jaccl" and not isinstance(rdma, list):
        raise _wrong(path, f"rdma of machine {number} must be a list of devices")
    return Machine(ssh=ssh, ip=ip, python=python, rdma=rdma)


def _certificate(config: Config) -> Certificate | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    found = Certificate(
        str(config.tls_cert.expanduser().absolute()), str(config.tls_key.expanduser().absolute())
    )
    try:
        found.digest()
    except (OSError, ValueError) as error:
        raise ConfigError(f"tls_cert cannot be read: {error}", param="tls_cert") from error
    return found


def _wrong(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"machines: {path} cannot be used: {problem}.", param="machines")
