"""Runs a core's program without transformers, so that it starts in a third of the time.

mlx_lm imports that for tokenizers, which no core uses. The arguments are the module of the program
and what is for that: `budmlx.core.__main__`, or one here that has a `main`, too.
"""

import importlib
import sys
from types import ModuleType


class Unused:
    """Stands for the classes that mlx_lm names."""

    @classmethod
    def register(cls, *arguments: object, **options: object) -> None:
        """A tokenizer becomes known; nobody asks for it."""


def leave_out() -> None:
    """Stand in for the modules from which mlx_lm takes its names of tokenizers."""
    for name in ("transformers", "transformers.tokenization_utils_base"):
        module = ModuleType(name)
        for kind in ("AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast"):
            setattr(module, kind, Unused)
        module.PreTrainedTokenizerBase = Unused  # type: ignore[attr-defined]
        sys.modules[name] = module


if __name__ == "__main__":
    leave_out()
    importlib.import_module(sys.argv.pop(1)).main()
