"""Job: what a service runs, in which environment, and where it answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from budmlx.cli.running_server import configured
from budmlx.config import ENV_PREFIX, Config
from budmlx.config.sources import API_KEY_VARIABLE, BASE_URL_VARIABLE, DEBUG_VARIABLE
from budmlx.errors import BudmlxError
from budmlx.server.security import check_bind

SECRETS = frozenset({"BUDMLX_API_KEYS", "BUDMLX_ADMIN_KEY", API_KEY_VARIABLE, "HF_TOKEN"})
"""Variables that are written nowhere."""
OF_OTHERS = re.compile(
    r"HF_[A-Z_]+|XDG_[A-Z_]+_HOME|(?i:https?_proxy|no_proxy|all_proxy)|SSL_CERT_(FILE|DIR)|LANG|LC_ALL"
)
OF_THIS_CALL = frozenset({BASE_URL_VARIABLE, DEBUG_VARIABLE})
OF_PLACE = ("host", "port", "tls_cert", "tls_key", "api_key_file", "drain_seconds")
GRACE_SECONDS = 10
"""For the end of a server beside `drain_seconds`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a service runs.

    program: the words of its command. directory: where relative paths begin. stop_seconds: how
    long its end may take. left_out: variables that are set here, and not there.
    """

    program: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    stop_seconds: int
    left_out: Sequence[str]


class Place(Struct, frozen=True):
    """Where the service that was installed answers. certificate: of HTTPS, or empty."""

    url: str
    certificate: str = ""


def job_of(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Job, Place]:
    """What runs `budmlx serve` with these arguments, as it would run here and now.

    Raises:
        BudmlxError: the server would refuse them.
    """
    python = [sys.executable, "-m", "budmlx"]
    program = [*python, "serve", *arguments]
    config = _checked(program)
    kept = {key: value for key, value in environment.items() if _belongs(key)}
    folder, path = str(Path(sys.executable).parent), environment.get("PATH", os.defpath)
    kept["PATH"] = os.pathsep.join(dict.fromkeys([folder, *path.split(os.pathsep)]))
    left_out = sorted(SECRETS & environment.keys())
    if bad := [key for key, value in kept.items() if not value.isprintable()]:
        raise BudmlxError(f"{bad[0]} holds what cannot be written into a file of a service.")
    if not all(word.isprintable() for word in program):
        raise BudmlxError("An argument holds what cannot be written into a file of a service.")
    stop = int(config.drain_seconds) + GRACE_SECONDS
    certificate = "" if config.tls_cert is None else str(config.tls_cert.expanduser().absolute())
    return Job(program, kept, Path.cwd(), stop, left_out), Place(configured(config), certificate)


def _belongs(name: str) -> bool:
    if name in SECRETS or name in OF_THIS_CALL:
        return False
    return name.startswith(ENV_PREFIX) or OF_OTHERS.fullmatch(name) is not None


def _checked(program: Sequence[str]) -> Config:
    """The settings with which a program serves. Raises BudmlxError if it would not."""
    run = subprocess.run([*program, "--print-config"], capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise BudmlxError("".join(reason).removeprefix("budmlx: ") or "The server does not start.")
    said = tomllib.loads(run.stdout)
    config = Config.of(**{name: said[name] for name in OF_PLACE if name in said})
    # Keys in variables are not the service's.
    check_bind(config.model_copy(update={"api_keys": (), "admin_key": ()}))
    return config
