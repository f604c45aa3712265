"""Back ends of MLX: whether one is installed and can run here, what to install if not.

MLX has its back end in a package of its own: a Mac always gets Metal, Linux none unless an extra
of budmlx names one. This module loads nothing of MLX.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from budmlx.errors import ModelLoadError

DEVICE_VARIABLE = "BUDMLX_DEVICE"
"""Where the core computes, `cpu` or `gpu`; MLX decides if it is not set."""

DRIVER = "libcuda.so.1"
"""The library of NVIDIA's driver, without which MLX for CUDA cannot be loaded."""

CPU_PACKAGE = "mlx-cpu"
CUDA_PACKAGES = ("mlx-cuda-12", "mlx-cuda-13")
LINUX_PACKAGES = (CPU_PACKAGE, *CUDA_PACKAGES)
"""They write the same files, so only one of them may be installed."""

ADVICE = (
    "Install it again, with a native arm64 Python: pip install --force-reinstall mlx mlx-metal."
    if sys.platform == "darwin"
    else 'For an NVIDIA GPU with its driver: pip install "budmlx[cuda]", '
    'otherwise: pip install "budmlx[cpu]".'
)


def check_backend() -> None:
    """Look for the files of MLX and of a back end, and for the driver that the latter needs.

    Raises:
        ModelLoadError: something is missing; says what to install.
    """
    spec = importlib.util.find_spec("mlx")
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    # Python loads the first; the library beside it is the back end.
    loaded = next((folder for folder in folders if any(folder.glob("core.*"))), None)
    if loaded is None:
        raise ModelLoadError(f"MLX is not installed. {ADVICE}")
    if not any(loaded.glob("lib*/libmlx*")):
        raise ModelLoadError(f"MLX has no back end here. {ADVICE}")
    for_cuda = any(map(_is_installed, CUDA_PACKAGES)) and not _is_installed(CPU_PACKAGE)
    if for_cuda and not _can_be_loaded(DRIVER):
        raise ModelLoadError(f"MLX for CUDA finds no NVIDIA driver ({DRIVER}). {ADVICE}")


@contextlib.contextmanager
def importing_mlx() -> Iterator[None]:
    """Context of an import of modules that need MLX.

    Raises:
        ModelLoadError: MLX cannot be loaded; says what to install.
    """
    try:
        with _open_files_kept():
            yield
    except ImportError as error:
        if "mlx.core" in sys.modules:  # something else is missing
            raise
        raise ModelLoadError(f"MLX cannot be loaded ({error}). {ADVICE}") from error


@contextlib.contextmanager
def _open_files_kept() -> Iterator[None]:
    """Context in which nobody changes the limits of open files.

    mlx-lm sets them when it is imported: it lowers those of a server, and where the hard limit is
    below its own, which only root may raise, it could not be imported.
    """
    inner = resource.setrlimit

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if kind != resource.RLIMIT_NOFILE:
            inner(kind, limits)

    resource.setrlimit = setrlimit
    try:
        yield
    finally:
        resource.setrlimit = inner


def conflict() -> str:
    """One sentence if several back ends are installed over each other, else empty."""
    found = [name for name in LINUX_PACKAGES if _is_installed(name)]
    if len(found) < 2:
        return ""
    return (
        f"{' and '.join(found)} are both installed and overwrite each other's files. "
        f"Remove them (pip uninstall {' '.join(found)}), then install one again."
    )


def _can_be_loaded(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
