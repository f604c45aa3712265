"""Description of the machine, and the BLAS that all contestants get."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("budmlx", "mlx", "mlx-lm", "aiohttp", "vllm-mlx", "mlx-vlm")
ASK = """
import json, mlx.core as mx
gpu = mx.default_device() == mx.gpu
print(json.dumps({"gpu": gpu, "info": mx.device_info() if gpu else {}}))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """What MLX computes on. name: as a heading says it. gpu: whether it is one."""

    name: str
    gpu: bool

    @property
    def kind(self) -> str:
        """`gpu` or `cpu`."""
        return "gpu" if self.gpu else "cpu"

    @property
    def slug(self) -> str:
        """The name as that of a file."""
        words = "".join(c if c.isalnum() else " " for c in self.name.lower()).split()
        return "-".join(words)


def device() -> Device:
    """The default device, asked in a process of its own: this one keeps no MLX memory."""
    done = subprocess.run([sys.executable, "-c", ASK], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    if found["gpu"]:
        return Device(str(found["info"].get("device_name") or "GPU"), gpu=True)
    return Device(f"{_processor()}, {os.cpu_count()} cores", gpu=False)


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


def blas_environment(device: Device) -> tuple[dict[str, str], str]:
    """Variables that make MLX's CPU backend use OpenBLAS, and a remark for the report.

    mlx-cpu brings a reference BLAS that is some 30 times slower, which no one deserves as
    a competitor and which would make every server's own overhead invisible.
    """
    if device.gpu:
        return {}, "not used"
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
