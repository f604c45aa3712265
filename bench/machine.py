"""Description of the machine, and the BLAS that all contestants get."""

from __future__ import annotations

import ctypes.util
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("budmlx", "mlx", "mlx-lm", "aiohttp", "vllm-mlx", "mlx-vlm")


def describe() -> dict[str, str]:
    """The machine and the versions that matter, as text."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "load before the run": load,
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := installed(name))},
    }


def installed(package: str) -> str | None:
    """The version of an installed distribution; of a checkout, its commit."""
    if package == "budmlx":
        root = Path(__file__).parent.parent
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def blas_environment() -> tuple[dict[str, str], str]:
    """Variables that make MLX's CPU backend use OpenBLAS, and a remark for the report.

    mlx-cpu brings a reference BLAS that is some 30 times slower, which no one deserves as
    a competitor and which would make every server's own overhead invisible.
    """
    if platform.system() != "Linux":
        return {}, "the system's BLAS"
    library = ctypes.util.find_library("openblas")
    if library is None:
        return {}, "reference BLAS of mlx-cpu (libopenblas0-pthread is not installed)"
    return {"LD_PRELOAD": library}, f"{library} preloaded for every contestant"


def _processor() -> str:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
