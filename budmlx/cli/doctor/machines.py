"""Findings about several machines: their links, and whether a model gains by them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from budmlx.cli.doctor.finding import Finding, good
from budmlx.cli.doctor.machine import SPEED_TEST_SECONDS, measured
from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.hosts.machines import MachinePool
from budmlx.engine.hosts.remote import Link
from budmlx.engine.load.machines import read_machines
from budmlx.errors import ModelLoadError
from budmlx.protocol.agents import Echo, Echoed, Probe, Probed
from budmlx.units import size_text

JOIN_SECONDS = 60.0
_ECHOES, _ECHO_SECONDS = 50, 10.0
_PIECE, _PIECES = 4 * 2**20, 8
# Of a model of a common size: sums over all ranks in a step, two a layer.
SUMS = 2 * 40
_USERS, _TOKENS = (1, 16), 32
# Splitting pays if it is so many times faster.
PAYS = 1.1

Speed = dict[str, Any]


def checks(path: Path, model: str | None) -> Iterator[tuple[str, Callable[[], Iterator[Finding]]]]:
    """What is looked at, by its name. model: to be measured, too."""
    yield "Machines", partial(_links, path)
    if model is not None:
        yield "Splitting", partial(_splitting, path, model)


def _links(path: Path) -> Iterator[Finding]:
    """Each other machine, its link, and from which size on models gain."""
    machines = read_machines(Config.of(machines=path))
    assert machines is not None
    own = measured()
    if isinstance(own, str):
        yield Finding("This machine", "fault", own)
        return
    yield good("This machine", _speed(own))
    pool = MachinePool(machines)
    try:
        links, missing = pool.gather(JOIN_SECONDS)
        for rank, problem in missing.items():
            advice = "Try the command that `budmlx serve --machines FILE --print-command` prints."
            yield Finding(f"Machine {pool.name(rank)}", "fault", problem, advice)
        speeds, trips = [own], []
        for rank, link in sorted(links.items()):
            speed, trip, rate = _probed(link), _trip(link), _rate(link)
            text = f"{trip * 1e6:,.0f} \u00b5s there and back, {rate / 1e9:,.2f} GB/s"
            if speed is None:
                yield Finding(f"Machine {pool.name(rank)}", "fault", f"{text}; MLX does not work")
                continue
            yield good(f"Machine {pool.name(rank)}", f"{text}; {_speed(speed)}")
            speeds.append(speed)
            trips.append(trip)
    finally:
        pool.close()
    if len(speeds) == len(machines.each):
        yield _break_even(speeds, max(trips))


def _speed(speed: Speed) -> str:
    moves = speed["bandwidth"] / 1e9
    return f"{speed['flops'] / 1e9:,.0f} GFLOP/s, moves {moves:,.1f} GB/s"


def _probed(link: Link) -> Speed | None:
    answer = link.ask(Probe(), SPEED_TEST_SECONDS)
    if not isinstance(answer, Probed) or not answer.text:
        return None
    found: Speed = json.loads(answer.text)
    return found


def _trip(link: Link) -> float:
    """Seconds there and back, the median."""
    seconds = []
    for _ in range(_ECHOES):
        begin = time.perf_counter()
        if not isinstance(link.ask(Echo(b"x"), _ECHO_SECONDS), Echoed):
            raise ModelLoadError("The link was lost.")
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _rate(link: Link) -> float:
    """Bytes a second, there and back one after the other."""
    data = bytes(_PIECE)
    begin = time.perf_counter()
    for _ in range(_PIECES):
        if not isinstance(link.ask(Echo(data), 6 * _ECHO_SECONDS), Echoed):
            raise ModelLoadError("The link was lost.")
    return 2 * _PIECES * _PIECE / (time.perf_counter() - begin)


def _break_even(speeds: list[Speed], trip: float) -> Finding:
    """From which size on a reply is faster on all machines, reckoned.

    A step reads all weights, each machine its part at the pace of the slowest; and it waits for
    the sums, each of which goes around the ring.
    """
    count = len(speeds)
    alone = 1 / speeds[0]["bandwidth"]
    together = 1 / (count * min(speed["bandwidth"] for speed in speeds))
    waiting = SUMS * (count - 1) * trip
    text = f"a step of a model of {SUMS // 2} layers waits {waiting * 1e3:,.1f} ms for the link"
    if alone <= together:
        advice = "Split only what does not fit: a machine is too slow for the others."
        return Finding("Splitting", "note", text, advice)
    size = waiting / (alone - together)
    memory = sum(float(speed["limit"]) for speed in speeds)
    text += f"; one reply is faster than here alone with weights of {size_text(int(size))} or more"
    if size > memory:
        advice = "That is more than all of them hold: split only what does not fit one machine."
        return Finding("Splitting", "note", text, advice)
    return good("Splitting", text)


def _splitting(path: Path, model: str) -> Iterator[Finding]:
    """Tokens a second of a model on this machine, and on all."""
    alone: dict[int, float] | None = None
    try:
        alone = _measured(model)
        yield good(f"{model} here", _rates(alone))
    except ModelLoadError as error:
        yield Finding(f"{model} here", "note", error.message, "It needs several machines.")
    split = _measured(model, machines=path)
    yield good(f"{model} on all", _rates(split))
    if alone is None:
        return
    gains = [split[users] / alone[users] for users in _USERS]
    text = f"{gains[0]:.2f} times the speed of one machine for one reply, {gains[1]:.2f} for 16"
    if max(gains) >= PAYS:
        yield good("Splitting", text)
    else:
        advice = f"Serve {model} on one machine, or on each, behind a balancer."
        yield Finding("Splitting", "note", text, advice)


def _measured(model: str, **settings: Any) -> dict[int, float]:
    """Tokens a second by the number of replies at once."""
    with Engine.load(model, engine_host="process", prefix_cache="0", **settings) as engine:

        def ask(number: int) -> int:
            options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
            reply = engine.chat(f"Tell me {number}.", max_tokens=_TOKENS, **options)
            return reply.usage.completion_tokens

        found = {}
        for users in _USERS:
            with ThreadPoolExecutor(users) as threads:
                list(threads.map(ask, range(users)))
                begin = time.perf_counter()
                tokens = sum(threads.map(ask, range(users)))
                found[users] = tokens / (time.perf_counter() - begin)
    return found


def _rates(rates: dict[int, float]) -> str:
    return ", ".join(f"{rate:,.1f} tokens/s with {users} at once" for users, rate in rates.items())
