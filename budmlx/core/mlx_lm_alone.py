"""mlx-lm without its tokenizers, which no core has: it is imported in a third of the time.

The package imports all it offers, and with the tokenizers transformers, which reads its thousands
of files at each start. Here it runs when somebody asks for more than its models, as a plugin may.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGE = "mlx_lm"
_TOKENIZERS = f"{_PACKAGE}.tokenizer_utils"


def import_mlx_lm() -> None:
    """Import the modules that load and run models, and leave the rest to who asks for it.

    Another mlx-lm, which needs more of its tokenizers than this knows of, is imported as it is.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or _PACKAGE in sys.modules:
        return
    package = importlib.util.module_from_spec(spec)
    sys.modules.update({_PACKAGE: package, _TOKENIZERS: _tokenizers()})
    try:
        for name in ("utils", "models"):
            importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError:
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
    else:
        del sys.modules[_TOKENIZERS]
        # Python asks for it before it imports another module of the package.
        del package.__path__
        package.__class__ = _Package


def _tokenizers() -> ModuleType:
    """What `mlx_lm.utils` takes of the tokenizers: a name for its types, and a function."""
    module = ModuleType(_TOKENIZERS)

    def load(*arguments: Any, **options: Any) -> Any:
        return importlib.import_module(_TOKENIZERS).load(*arguments, **options)

    vars(module).update(TokenizerWrapper=object, load=load)
    return module


class _Package(ModuleType):
    """The package, which runs when anything is looked for that it does not have before."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if "__path__" in vars(self) or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__path__ = spec.submodule_search_locations or []
        spec.loader.exec_module(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Some modules are called as functions of the package, which are what stays."""
        if not (isinstance(value, ModuleType) and callable(vars(self).get(name))):
            super().__setattr__(name, value)
