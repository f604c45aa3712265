"""Kernel cache: the directory in which MLX keeps the kernels that it builds, if its back end does.

Metal's are kept by macOS. CUDA's are, but by default in a directory for temporary files, which
a restart of the machine empties, and where another user may have put the files.
"""

from __future__ import annotations

import os

import mlx.core as mx

VARIABLE = "MLX_PTX_CACHE_DIR"


def keep_kernels() -> None:
    """Let MLX keep kernels in the user's cache, unless the variable names another directory.

    To be called before anything is computed: MLX reads the variable once.
    """
    if mx.cuda.is_available():
        os.environ.setdefault(VARIABLE, directory())


def directory() -> str:
    """The directory for this version of MLX, whose kernels another one must not load."""
    root = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return os.path.join(root, "budmlx", "kernels", mx.__version__)
