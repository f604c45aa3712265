"""Runs a core with a change: the module whose `main` does so, and what a core is given."""

import importlib
import sys

from budmlx.core.mlx_lm_alone import import_mlx_lm

if __name__ == "__main__":
    import_mlx_lm()  # as `budmlx.core` does
    importlib.import_module(sys.argv.pop(1)).main()
