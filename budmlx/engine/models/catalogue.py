"""Catalogue: the models that are offered, and the names that they answer to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from budmlx.config import Config
from budmlx.engine.engine import DEMO_NAME
from budmlx.engine.load.hub import SHIPPED_MODEL, model_name
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.errors import ModelNotFoundError

SHOWN_NAMES = 20
"""So many names an error lists."""


class Catalogue:
    """The models that are offered, by name.

    by_name: models by the names that are listed. any_name: the first answers to every name.
    """

    def __init__(self, config: Config, specs: Iterable[ModelSpec], *, any_name: bool = False):
        self._config = config
        self._any_name = any_name
        self._residents: dict[str, Resident] = {}
        self.by_name: dict[str, Resident] = {}
        for spec in specs:
            config = spec.config
            self.add(Resident(spec, pinned=config.pin, idle_seconds=config.idle_unload))

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def add(self, resident: Resident) -> None:
        """Offer a model. Names that are taken stay with those that have them."""
        self._residents.setdefault(resident.name, resident)
        for name in (resident.name, *resident.spec.aliases):
            self.by_name.setdefault(name, resident)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is listed: of each model its own, then its aliases."""
        return tuple(self.by_name)

    def find(self, name: str) -> Resident:
        """The model that answers to `name`.

        Raises:
            ModelNotFoundError: nothing answers to it; the message lists what does.
        """
        found = self.by_name.get(name) or self._known_otherwise(name)
        if found is None:
            raise ModelNotFoundError(self._not_found(name), param="model")
        return found

    def _known_otherwise(self, name: str) -> Resident | None:
        if self._any_name:
            return next(iter(self))
        alias = self._config.alias_of(name)
        if alias is None or alias not in self.by_name:
            alias = self._config.default_model
        return None if alias is None else self.by_name.get(alias)

    def _not_found(self, name: str) -> str:
        shown = f"No model named {name[:100]!r} is served here."
        if near := difflib.get_close_matches(name, self.names, n=3, cutoff=0.8):
            return f"{shown} Did you mean {' or '.join(near)}?"
        served = ", ".join(self.names[:SHOWN_NAMES])
        more = len(self.names) - SHOWN_NAMES
        return f"{shown} Served: {served}{f' and {more} more' if more > 0 else ''}."


def demo(config: Config) -> ModelSpec:
    """The model that comes with budmlx."""
    return ModelSpec(DEMO_NAME, config, _weights(SHIPPED_MODEL))


def configured(config: Config, *, fetch: bool) -> ModelSpec:
    """The model that a configuration names; see `Config.for_model`."""
    assert config.model is not None
    path = Path(config.model).expanduser()
    return ModelSpec(model_name(config.model), config, _weights(path), fetch=fetch)


def _weights(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("model*.safetensors"))
