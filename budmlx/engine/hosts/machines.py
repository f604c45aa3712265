"""Machines: agents on other machines, how they are started and how they come."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from budmlx.engine.hosts.ports import PORTS, free_port
from budmlx.engine.hosts.remote import Link, RemoteChild
from budmlx.errors import ModelLoadError
from budmlx.protocol import PROTOCOL_VERSION, CoreSettings, LoadFailed, Place
from budmlx.protocol.agents import Came, FromAgent, Refused
from budmlx.protocol.channel import Channel, FrameError
from budmlx.protocol.links import accepted, listen
from budmlx.protocol.machines import Machines
from budmlx.protocol.proofs import ANSWER_SECONDS, admit

log = logging.getLogger(__name__)

_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
# Seconds for a command of ssh to end by itself once its agent was hung up on.
_SSH_SECONDS = 3.0
_LOOK_SECONDS = 0.05


class MachinePool:
    """The agents of a model's other machines, which outlive the cores that they run.

    It listens from the start. Raises ModelLoadError if it cannot.
    """

    def __init__(self, machines: Machines):
        self.machines = machines
        with contextlib.ExitStack() as held:
            try:
                port = machines.port or free_port(held, machines.each[0].ip)
                held.close()
                self.address = joined(machines.each[0].ip, port)
                self._server = listen(self.address)
            except OSError as error:
                where = machines.each[0].ip
                raise ModelLoadError(f"Agents cannot come to {where}: {error}.") from error
        self._digest = machines.certificate.digest() if machines.certificate else ""
        self._lock = threading.Lock()
        self._links: dict[int, Link] = {}
        self._waiting: dict[int, RemoteChild] = {}
        self._ssh: dict[int, subprocess.Popen[bytes]] = {}
        self._problems: dict[int, str] = {}  # why ranks did not come, when nothing waited
        self._came: set[int] = set()  # those that ssh has started, and that came
        self._closed = False
        threading.Thread(target=self._accept, name="budmlx-machines", daemon=True).start()

    def place(self) -> Place:
        """Addresses of all ranks, and a new secret; for rank 0. Raises OSError."""
        ips = [machine.ip for machine in self.machines.each]
        with contextlib.ExitStack() as held:
            control = free_port(held, ips[0])
            own = free_port(held, ips[0])
            # Those of other machines cannot be tried from here.
            others = random.SystemRandom().sample(
                [port for port in PORTS if port not in (control, own)], len(ips) - 1
            )
        return Place(
            rank=0,
            ring=[joined(ip, port) for ip, port in zip(ips, (own, *others), strict=True)],
            control=joined(ips[0], control),
            secret=secrets.token_hex(32),
            certificate=self.machines.certificate,
            digest=self._digest,
            backend=self.machines.backend,
            rdma=[machine.rdma for machine in self.machines.each],
        )

    def here(self, rank: int) -> int:
        """How many ranks share the machine of one."""
        ips = [machine.ip for machine in self.machines.each]
        return ips.count(ips[rank])

    def name(self, rank: int) -> str:
        """What the machine of a rank is called."""
        machine = self.machines.each[rank]
        return machine.ssh or machine.ip

    def child(self, rank: int, settings: CoreSettings, patience: float) -> RemoteChild:
        """A core on the machine of a rank, which begins when its agent is there."""
        child = RemoteChild(settings, patience)
        with self._lock:
            link = self._links.get(rank)
            if link is None:
                self._waiting[rank] = child
                if self.machines.each[rank].ssh and rank not in self._ssh:
                    self._ssh[rank] = self._started(rank)
        if link is not None:
            child.begin(link)
        return child

    def gather(self, seconds: float) -> tuple[Mapping[int, Link], Mapping[int, str]]:
        """Wait for all agents: those that are there, and why others are not, by rank."""
        ranks = range(1, len(self.machines.each))
        with self._lock:
            for rank in ranks:
                if self.machines.each[rank].ssh and rank not in (*self._links, *self._ssh):
                    self._ssh[rank] = self._started(rank)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                if all(rank in self._links or rank in self._problems for rank in ranks):
                    break
            time.sleep(_LOOK_SECONDS)
        with self._lock:
            links = dict(self._links)
            late = f"it did not join within {seconds:.0f} s"
            missing = {r: self._problems.get(r, late) for r in ranks if r not in links}
        return links, missing

    def close(self) -> None:
        """Hang up on all agents, which end what they run."""
        with self._lock:
            self._closed = True
            links, running = list(self._links.values()), list(self._ssh.values())
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for link in links:
            link.close()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SSH_SECONDS)
            process.kill()
            process.wait()

    # Agents that are started

    def _started(self, rank: int) -> subprocess.Popen[bytes]:
        command = agent_command(self.machines, rank, self.address, self._digest)
        process = subprocess.Popen(
            [*_SSH, self.machines.each[rank].ssh, shlex.join(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server to judge
        )
        watcher = threading.Thread(target=self._watch, args=(rank, process), daemon=True)
        watcher.start()
        return process

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """Thread body: give an agent the secret, pass on its words, and tell of its end."""
        assert process.stdin is not None and process.stderr is not None
        with contextlib.suppress(OSError), process.stdin as stdin:
            stdin.write(self.machines.secret.encode() + b"\n")
        last = "it said nothing"
        with process.stderr as stderr:
            for raw in stderr:
                if line := raw.decode(errors="replace").strip():
                    log.info("Rank %d on %s: %s", rank, self.name(rank), line)
                    last = line
        status = process.wait()
        with self._lock:
            del self._ssh[rank]
            if rank in self._came:
                self._came.discard(rank)
                if rank in self._waiting and not self._closed:
                    self._ssh[rank] = self._started(rank)
                return
            child = self._waiting.pop(rank, None)
            self._problems[rank] = problem = f"ssh ended with status {status}: {last}"
        if child is not None:
            start = f"Rank {rank} could not be started on {self.name(rank)}"
            child.failed(LoadFailed(f"{start}; {problem}"))
            child.ended("it was not started")

    # Agents that come

    def _accept(self) -> None:
        """Thread body: let agents in until the listening socket is closed."""
        with contextlib.suppress(OSError, ValueError):
            while True:
                connection, peer = self._server.accept()
                greeter = threading.Thread(
                    target=self._greet, args=(connection, str(peer[0])), daemon=True
                )
                greeter.start()

    def _greet(self, connection: socket.socket, ip: str) -> None:
        """Thread body: let one agent in, or hang up."""
        ready = accepted(connection, self.machines.certificate)
        if ready is None:
            return
        channel: Channel[FromAgent] = Channel(ready, FromAgent)
        with contextlib.suppress(EOFError, FrameError, OSError):
            said = admit(channel, self.machines.secret)
            came = channel.receive(ANSWER_SECONDS) if said is not None else None
            if said is not None and isinstance(came, Came):
                rank, refusal = self._rank(said, ip, came)
                if not refusal:
                    self._take(channel, rank)
                    return
                log.warning("An agent from %s is refused: %s", ip, refusal)
                channel.send(Refused(refusal))
        channel.close()

    def _rank(self, said: int, ip: str, came: Came) -> tuple[int, str]:
        """The rank of an agent, and why it is refused, if it is."""
        size = len(self.machines.each)
        if came.protocol != PROTOCOL_VERSION:
            return said, "This machine has another version of budmlx than rank 0."
        with self._lock:
            free = [rank for rank in range(1, size) if rank not in self._links]
        if said < 0:
            fitting = [rank for rank in free if self.machines.each[rank].ip == ip]
            if not fitting:
                return said, f"No rank that is missing has the address {ip}; name it with --rank."
            return fitting[0], ""
        if not 0 < said < size:
            return said, f"There is no rank {said} to start; there are {size}."
        return said, ""

    def _take(self, channel: Channel[FromAgent], rank: int) -> None:
        with self._lock:
            closed = self._closed
            former = self._links.pop(rank, None)
            if not closed:
                self._came.add(rank)
                link = self._links[rank] = Link(channel, rank, self._left)
            child = self._waiting.pop(rank, None)
        if former is not None:  # it was lost, and nobody noticed yet
            former.close()
        if closed:
            channel.close()
        elif child is not None:
            child.begin(link)

    def _left(self, link: Link) -> None:
        with self._lock:
            if self._links.get(link.rank) is link:
                del self._links[link.rank]
                if (process := self._ssh.get(link.rank)) is not None:
                    process.terminate()


def agent_command(machines: Machines, rank: int, address: str, digest: str) -> Sequence[str]:
    """The words of the command that starts the agent of a rank; it reads the secret from stdin."""
    environment = ["env", *machines.envs] if machines.envs else []
    tls = ["--tls-digest", digest] if digest else []
    return [
        *environment,
        *(machines.each[rank].python, "-P", "-m", "budmlx", "rank", "--join", address),
        *("--rank", str(rank), "--token-file", "-", "--once", *tls),
    ]


def joined(ip: str, port: int | str) -> str:
    """HOST:PORT."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
