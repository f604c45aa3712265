"""launchd: a user agent of a Mac, or a daemon that runs before anybody logs in."""

from __future__ import annotations

import getpass
import os
import plistlib
from collections.abc import Sequence
from pathlib import Path

from budmlx.cli.service.job import Job
from budmlx.cli.service.system import NAME, call, remove, write
from budmlx.errors import BudmlxError

LABEL = "io.github.budmlx"
DAEMONS = Path("/Library/LaunchDaemons")
OPEN_FILES = 4096


class Launchd:
    """The `Manager` of a Mac. system: a daemon; it needs to be called by root."""

    def __init__(self, *, system: bool):
        if system and os.geteuid():
            raise BudmlxError("A daemon of the system is root's: call it with sudo.")
        self._system = system
        self._domain = "system" if system else f"gui/{os.getuid()}"
        # A daemon runs as the user who called sudo, whose models it serves.
        self._user = os.environ.get("SUDO_USER") or getpass.getuser()
        self._home = Path(f"~{self._user}").expanduser() if system else Path.home()

    @property
    def path(self) -> Path:
        """The file of the service."""
        folder = DAEMONS if self._system else self._home / "Library" / "LaunchAgents"
        return folder / f"{LABEL}.plist"

    @property
    def log(self) -> Path:
        """The file of its log."""
        return self._home / "Library" / "Logs" / NAME / f"{NAME}.log"

    def text(self, job: Job) -> bytes:
        """The property list of a job."""
        log = str(self.log)
        content = {
            "Label": LABEL,
            "ProgramArguments": [*job.program, "--log-file", log],
            "EnvironmentVariables": {**job.environment, "HOME": str(self._home)},
            "WorkingDirectory": str(job.directory),
            "RunAtLoad": True,
            # It is started again unless it ended because it was told to.
            "KeepAlive": {"SuccessfulExit": False},
            "ExitTimeOut": job.stop_seconds,
            # Without it, macOS may keep the process on its slow cores.
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
            "StandardErrorPath": log,
        }
        if self._system:
            content["UserName"] = self._user
        return plistlib.dumps(content)

    def install(self, job: Job) -> None:
        """See `Manager`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self._system:
            os.chown(self.log.parent, int(os.environ.get("SUDO_UID", "0")), -1)
        call("launchctl", "bootout", f"{self._domain}/{LABEL}", fails=False)
        write(self.path, self.text(job))
        call("launchctl", "bootstrap", self._domain, str(self.path))

    def uninstall(self) -> None:
        """See `Manager`."""
        call("launchctl", "bootout", f"{self._domain}/{LABEL}", fails=False)
        remove(self.path)

    def restart(self) -> None:
        """See `Manager`."""
        call("launchctl", "kickstart", "-k", f"{self._domain}/{LABEL}")

    def status(self) -> str:
        """See `Manager`."""
        said = call("launchctl", "print", f"{self._domain}/{LABEL}", fails=False)
        told = ("state =", "pid =", "last exit code =", "runs =", "Could not find")
        lines = [line.strip() for line in said.splitlines()]
        return "\n".join(line for line in lines if line.startswith(told))

    def logs(self, lines: int, *, follow: bool) -> Sequence[str]:
        """See `Manager`."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self.log)]
