"""A real sshd on a port of this machine, and an `ssh` that goes to it by whatever name."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.fronts import free_ports
from tests.clients.server import missing
from tests.engine.hosts.core_process import eventually

_SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""
_CLIENT = """
Host *
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {directory}/user_key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextmanager
def ssh_server(directory: Path) -> Iterator[Path]:
    """A directory for PATH whose `ssh` reaches it. The test is skipped without sshd."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    ssh = shutil.which("ssh")
    if sshd is None or ssh is None:
        missing("sshd is not installed; it is in Debian's package openssh-server")
    (port,) = free_ports(1)
    values = {"port": port, "directory": directory, "user": getpass.getuser()}
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(command, check=True)
    (directory / "sshd_config").write_text(_SERVER.format(**values))
    (directory / "ssh_config").write_text(_CLIENT.format(**values))
    programs = directory / "bin"
    programs.mkdir()
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {directory}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(directory / "sshd_config")])
    try:
        eventually(lambda: _answers(port))
        yield programs
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
