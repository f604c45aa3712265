"""Findings about the machine: Python, system, device, memory, disk, files, panics."""

from __future__ import annotations

import json
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from budmlx.backend import check_backend, conflict
from budmlx.cli.doctor.finding import Finding, good
from budmlx.directories import cache_directory
from budmlx.errors import ModelLoadError
from budmlx.open_files import MOST, SPARE
from budmlx.units import size_text

LEAST_MACOS = 14
SPEED_TEST_SECONDS = 120.0
"""A GPU's first kernels may take most of a minute."""
SLOW_CPU_FLOPS = 20e9
"""Any core of the last ten years multiplies matrices faster, with a library that is made for it."""
LEAST_FILES = 1024 + SPARE
"""Open files of a server with all the connections that it allows."""
LITTLE_DISK = 10 * 2**30
# Bytes a weight in 4 bits, with scales; the share of the memory that weights may take so that some
# is left for the KV of conversations.
FOUR_BITS = 0.5625
WEIGHTS_SHARE = 0.8
PANICS = Path("/Library/Logs/DiagnosticReports")
GPU_WORDS = re.compile(r"AGX|IOGPU|GPU|prepare count underflow|IOAccel", re.IGNORECASE)


def python() -> Finding:
    """Version and architecture."""
    text = f"{platform.python_version()} for {platform.machine()}, {sys.executable}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        advice = "Install an arm64 Python, for example with Homebrew in /opt/homebrew."
        return Finding("Python", "fault", f"{text}: MLX needs a native arm64 build", advice)
    return good("Python", text)


def system() -> Finding:
    """The operating system."""
    if sys.platform != "darwin":
        return good("System", platform.platform(terse=True))
    version = platform.mac_ver()[0]
    if int(version.partition(".")[0] or 0) < LEAST_MACOS:
        text = f"macOS {version}: MLX needs {LEAST_MACOS} or newer"
        return Finding("System", "fault", text, "Update macOS.")
    return good("System", f"macOS {version}")


def device() -> Iterator[Finding]:
    """MLX's back end, how fast the bare device is, and how large a model may be."""
    try:
        check_backend()
    except ModelLoadError as error:
        yield Finding("MLX", "fault", error.message)
        return
    if problem := conflict():
        yield Finding("MLX", "fault", problem)
        return
    speed = measured()
    if isinstance(speed, str):
        yield Finding("MLX", "fault", f"it computes nothing here: {speed}", "Install MLX again.")
        return
    yield _speed(speed)
    yield _memory(speed)


def measured() -> dict[str, Any] | str:
    """What the speed test prints, or what went wrong."""
    command = [sys.executable, "-P", "-m", "budmlx.core.speed_test"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SPEED_TEST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {SPEED_TEST_SECONDS:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"the test ended with code {done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _speed(speed: dict[str, Any]) -> Finding:
    flops, backend = float(speed["flops"]), speed["backend"]
    text = (
        f"{backend} {speed['name']}".rstrip() + f": {flops / 1e9:,.0f} GFLOP/s in matrix products, "
        f"moves {speed['bandwidth'] / 1e9:,.1f} GB/s"
    )
    if backend != "cpu":
        return good("Device", text)
    if flops < SLOW_CPU_FLOPS:
        advice = (
            "That is slow: the machine is busy, or MLX has only the reference BLAS. On Debian or "
            "Ubuntu: apt install libopenblas0-pthread, and start budmlx with "
            "LD_PRELOAD=libopenblas.so.0."
        )
        return Finding("Device", "note", text, advice)
    return Finding("Device", "note", text, "A GPU would be much faster.")


def _memory(speed: dict[str, Any]) -> Finding:
    limit = int(speed["limit"])
    most = limit * WEIGHTS_SHARE / FOUR_BITS
    text = (
        f"{size_text(limit)} of {size_text(int(speed['size']))} for models; that holds about "
        f"{most / 1e9:.0f} B parameters in 4 bit, or {most / 2e9:.0f} B in 8 bit"
    )
    return good("Memory", text)


def disk() -> Iterator[Finding]:
    """Free space where models and caches are kept."""
    seen = set()
    for path in (Path.home(), cache_directory()):
        there = next(each for each in (path, *path.parents) if each.exists())
        if (file_system := there.stat().st_dev) in seen:
            continue
        seen.add(file_system)
        free = shutil.disk_usage(there).free
        text = f"{size_text(free)} free at {there}"
        if free < LITTLE_DISK:
            yield Finding("Disk", "note", text, "`budmlx rm` and `budmlx cache` free some.")
        else:
            yield good("Disk", text)


def open_files() -> Finding:
    """The limit of open files, which the server raises as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"soft limit {_number(soft)}, hard limit {_number(hard)}"
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        advice = f"Raise the hard limit to {MOST}, as in `ulimit -Hn {MOST}` by root."
        return Finding("Open files", "note", f"{text}: few connections at once", advice)
    return good("Open files", text)


def _number(limit: int) -> str:
    return "none" if limit == resource.RLIM_INFINITY else str(limit)


def panic(directory: Path = PANICS) -> Iterator[Finding]:
    """The newest panic of a Mac, if there was one. directory: where the system reports them."""
    try:
        reports = sorted(directory.glob("*.panic"), key=lambda path: path.stat().st_mtime)
    except OSError:
        return
    if not reports:
        return
    newest = reports[-1]
    try:
        text = newest.read_text("utf-8", errors="replace")
    except OSError as error:
        text = f"{newest} cannot be read ({error.strerror})"
        yield Finding("Panics", "note", text, "Run `sudo budmlx doctor` to have it read.")
        return
    if GPU_WORDS.search(text):
        advice = 'Set a lower memory_limit, such as "60%", and update macOS.'
        yield Finding("Panics", "note", f"{newest.name} names the GPU", advice)
    else:
        yield good("Panics", f"{newest.name} does not name the GPU")
