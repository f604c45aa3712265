"""Model set: the models that a server offers and the names they answer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.errors import ModelNotFoundError
from budmlx.progress import Notice


class ModelSet:
    """Finds the engine for a requested name.

    any_name: the demo model answers to every name, so that the examples of clients work.
    """

    def __init__(self, engine: Engine, names: Sequence[str], *, any_name: bool = False):
        self.engine = engine
        self.names = tuple(dict.fromkeys((engine.info.name, *names)))
        self._any_name = any_name

    @classmethod
    def load(cls, config: Config, notice: Notice | None = None) -> Self:
        """Load what the configuration names; the demo model if it names nothing.

        notice: called with words while a model loads, on any thread.

        Raises:
            ModelLoadError: the model is missing or cannot be used.
        """
        config = config.for_model()
        engine = Engine.from_config(config, notice=notice)
        return cls(engine, config.alias, any_name=config.model is None)

    def resolve(self, name: str) -> Engine:
        """The engine that answers to `name`.

        Raises:
            ModelNotFoundError: nothing answers to it; the message lists what does.
        """
        if self._any_name or name in self.names:
            return self.engine
        served = ", ".join(self.names)
        raise ModelNotFoundError(
            f"No model named {name[:100]!r} is served here. Served: {served}.", param="model"
        )

    def close(self) -> None:
        """Close every engine."""
        self.engine.close()
