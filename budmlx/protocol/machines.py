"""Machines: where the ranks of a model are, and how their agents come to the host."""

from __future__ import annotations

import msgspec

from budmlx.protocol.links import Certificate


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that has a rank of a model.

    ssh: what ssh calls it; empty if its agent is started by hand. ip: where its rank listens.
    python: the interpreter there that has budmlx. rdma: its devices towards each rank.
    """

    ssh: str
    ip: str
    python: str
    rdma: list[str | None] = []


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """The machines of a model, that of rank 0, where the host runs, first.

    secret: what all agents know, and nobody else. port: where agents come to; 0: any.
    certificate: of the host; None for messages without TLS. envs: NAME=VALUE for the agents.
    backend: MLX's, `ring` or `jaccl`.
    """

    each: list[Machine]
    secret: str
    port: int = 0
    certificate: Certificate | None = None
    envs: list[str] = []
    backend: str = "ring"
