"""systemd: a unit of the user, whose log the journal keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from budmlx.cli.service.job import Job
from budmlx.cli.service.system import NAME, call, remove, write
from budmlx.errors import BudmlxError

UNIT = f"{NAME}.service"
OPEN_FILES = 4096
RETRY_SECONDS = 5


class Systemd:
    """The `Manager` of Linux."""

    def __init__(self, *, system: bool):
        if system:
            raise BudmlxError(
                "On Linux the service is the user's; to have it run before somebody logs in: "
                "loginctl enable-linger."
            )

    @property
    def path(self) -> Path:
        """The file of the service."""
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        return folder / "systemd" / "user" / UNIT

    def text(self, job: Job) -> bytes:
        """The unit of a job."""
        return "".join(f"{line}\n" for line in _lines(job)).encode()

    def install(self, job: Job) -> None:
        """See `Manager`."""
        write(self.path, self.text(job))
        _control("daemon-reload")
        _control("enable", UNIT)
        _control("restart", UNIT)

    def uninstall(self) -> None:
        """See `Manager`."""
        if self.path.exists():
            _control("disable", "--now", UNIT)
        remove(self.path)
        _control("daemon-reload")

    def restart(self) -> None:
        """See `Manager`."""
        _control("restart", UNIT)

    def status(self) -> str:
        """See `Manager`."""
        return call("systemctl", "--user", "--no-pager", "--lines=0", "status", UNIT, fails=False)

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """See `Manager`."""
        rest = ["--follow"] if follow else ["--no-pager"]
        return ["journalctl", "--user", f"--unit={UNIT}", f"--lines={lines}", *rest]


def _control(*words: str) -> None:
    call("systemctl", "--user", *words)


def _lines(job: Job) -> Iterator[str]:
    reload = [*job.program[: job.program.index("serve")], "service", "reload"]
    yield "[Unit]"
    yield "Description=budmlx, language models over HTTP"
    yield "After=network.target"
    yield ""
    yield "[Service]"
    yield "Type=exec"
    yield f"WorkingDirectory={_specifier(str(job.directory))}"
    for name, value in job.environment.items():
        yield f"Environment={_quoted(f'{name}={value}')}"
    # Secrets, which are not in this file: BUDMLX_API_KEY, HF_TOKEN.
    yield f"EnvironmentFile=-%E/{NAME}/service.env"
    yield f"ExecStart={_command(job.program)}"
    yield f"ExecReload={_command(reload)}"
    yield "Restart=on-failure"
    yield f"RestartSec={RETRY_SECONDS}"
    # The process of a model ends with the server, which may still need it.
    yield "KillMode=mixed"
    yield f"TimeoutStopSec={job.stop_seconds}"
    yield f"LimitNOFILE={OPEN_FILES}"
    yield "NoNewPrivileges=yes"
    yield ""
    yield "[Install]"
    yield "WantedBy=default.target"


def _command(words: Sequence[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str) -> str:
    """A word of a unit, whatever it holds."""
    escaped = _specifier(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _specifier(word: str) -> str:
    return word.replace("%", "%%")
