"""Catalogue: the models that are offered, and the names that they answer to."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from budmlx.config import Config, ModelConfig
from budmlx.engine.engine import DEMO, DEMO_NAME
from budmlx.engine.load.draft_model import local_draft_model
from budmlx.engine.load.hub import SHIPPED_MODEL, model_name
from budmlx.engine.load.library.kv_size import with_drafter
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.load.repository import REPOSITORY_NAME
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.errors import ModelNotFoundError

TAG = "latest"
"""Ollama's clients put it behind the names of models, also where they do not speak its protocol."""
SHOWN_NAMES = 20
"""So many names an error lists."""
NOT_OF_LOADS = frozenset({"alias", "pin", "idle_unload"})
"""Settings of a model that need no load to be changed."""
FRESH_SECONDS = 2.0
"""A name that is not known makes the library be read again, if that was longer ago."""


class Catalogue:
    """The models that are offered, by name. Thread-safe.

    by_name: models by the names that are listed. any_name: the first answers to every name.
    library: the models on this machine, if they are offered, too. Those that come later are.
    """

    def __init__(
        self,
        config: Config,
        specs: Iterable[ModelSpec] = (),
        library: Library | None = None,
        *,
        any_name: bool = False,
    ):
        self._config = config
        self._library = library
        self._any_name = any_name
        self._lock = threading.Lock()
        self._read_at = -FRESH_SECONDS
        self._from_library: set[str] = set()
        self._problems: dict[str, str] = {}  # of models that cannot be served
        self._on_demand: dict[str, Resident] = {}
        self.by_name: dict[str, Resident] = {}
        for spec in specs:
            self.add(Resident.of(spec))
        self.refresh()

    def __iter__(self) -> Iterator[Resident]:
        # A copy, since another thread may add models meanwhile.
        return iter(dict.fromkeys(list(self.by_name.values())))

    def add(self, resident: Resident) -> None:
        """Offer a model. Names that are taken stay with those that have them."""
        for name in (resident.name, *resident.spec.aliases):
            self.by_name.setdefault(name, resident)

    def refresh(self, seconds: float = 0.0) -> None:
        """See what the library has by now, which reads the disk. Models that are loaded stay.

        seconds: nothing is done if that was less long ago.
        """
        if self._library is None:
            return
        with self._lock:
            if time.monotonic() < self._read_at + seconds:
                return
            models = self._library.models()
            found = {each.name: each for each in models if each.servable}
            self._problems = {each.name: each.problem for each in models if not each.servable}
            for name in self._from_library - found.keys():
                if self.by_name[name].idle:
                    self._from_library.discard(name)
                    self._remove(self.by_name[name])
            for name, model in found.items():
                spec = described(self._config, model)
                if name in self._from_library:
                    self.by_name[name].moved(spec)
                elif name not in self.by_name:
                    self._from_library.add(name)
                    on_demand = self._on_demand.pop(name, None)
                    self.add(on_demand or Resident.of(spec))
            self._read_at = time.monotonic()

    def keep(self, before: Catalogue) -> list[str]:
        """Take over the models of a former catalogue, as they are, with the settings of this one.

        Those that this one lacks stay if they are in use. Returns the names of loaded models that
        will have other settings when they are loaded again.
        """
        late = []
        own = {resident.name: resident for resident in self}
        for old in before:
            new = own.get(old.name)
            if new is None:
                if not old.idle:
                    self.add(old)
                continue
            if old.engine is not None and _settings(old.spec) != _settings(new.spec):
                late.append(old.name)
            if old.spec.config.pin != new.spec.config.pin:
                old.pinned = new.pinned
            old.spec = new.spec
            if old.engine is None:
                old.idle_seconds = old.usual_idle_seconds
            names = {name: old for name, each in self.by_name.items() if each is new}
            self.by_name = {**self.by_name, **names}
        self._on_demand = {name: one for name, one in before._on_demand.items() if not one.idle}
        return late

    @property
    def names(self) -> list[str]:
        """Every name that is listed: of each model its own, its aliases, and its adapters'."""
        adapted = (f"{each.name}:{adapter}" for each in self for adapter in each.adapters)
        return [*self.by_name, *(name for name in adapted if name not in self.by_name)]

    def needs_refresh(self, name: str) -> bool:
        """Whether nothing that is known answers to a name, and the library may have it by now."""
        stale = self._library is not None and time.monotonic() >= self._read_at + FRESH_SECONDS
        return stale and self._at_hand(name) is None

    def find(self, name: str, *, default: bool = True) -> tuple[Resident, str]:
        """The model that answers to `name`, and the adapter that the name ends with, if any.

        default: the one for unknown names may answer.

        Raises:
            ModelNotFoundError: nothing answers to it, or its model has no such adapter; the
                message lists what there is.
        """
        if (found := self._at_hand(name)) is not None:
            return found
        if (pulled := self._to_pull(name)) is not None:
            return pulled, ""
        other = self.by_name.get(self._config.default_model or "") if default else None
        # The default is not what somebody wants who names a model, or an adapter of one.
        if other is None or name in self._problems or self._base(name) is not None:
            raise ModelNotFoundError(self._not_found(name), param="model")
        return other, ""

    def _at_hand(self, name: str) -> tuple[Resident, str] | None:
        """What answers to a name, and the adapter in it."""
        if (found := self.by_name.get(name)) is not None:
            return found, ""
        base, adapter = self._base(name), name.rpartition(":")[2]
        if base is not None and adapter in base.adapters:
            return base, adapter
        if base is not None and adapter == TAG:
            return base, ""
        if base is not None and base.adapters and not self._any_name:
            return None  # A pattern would give the model without one.
        found = self._known_otherwise(name)
        return None if found is None else (found, "")

    def _base(self, name: str) -> Resident | None:
        """The model in front of the colon of a name."""
        base = name.rpartition(":")[0]
        return (self.by_name.get(base) or self._known_otherwise(base)) if base else None

    def _remove(self, resident: Resident) -> None:
        for name in [name for name, each in self.by_name.items() if each is resident]:
            del self.by_name[name]

    def _known_otherwise(self, name: str) -> Resident | None:
        if self._any_name:
            return next(iter(self))
        alias = self._config.alias_of(name)
        return None if alias is None else self.by_name.get(alias)

    def _to_pull(self, name: str) -> Resident | None:
        """A model of the hub that a request may fetch; it is listed once it is here."""
        if not self._config.pull_on_demand or not REPOSITORY_NAME.fullmatch(name):
            return None
        with self._lock:
            spec = ModelSpec(name, self._config.for_model(name), fetch=True)
            # Names that lead nowhere must not pile up.
            self._on_demand = {key: one for key, one in self._on_demand.items() if not one.idle}
            return self._on_demand.setdefault(name, Resident.of(spec))

    def _not_found(self, name: str) -> str:
        if problem := self._problems.get(name):
            return problem
        if (model := self._base(name)) is not None:
            base, _, adapter = name.rpartition(":")
            there = ", ".join(model.adapters) or "none"
            return f"{base} has no adapter {adapter[:100]!r}. Its adapters: {there}."
        names = self.names
        shown = f"No model named {name[:100]!r} is served here."
        if near := difflib.get_close_matches(name, names, n=3, cutoff=0.8):
            return f"{shown} Did you mean {' or '.join(near)}?"
        served = ", ".join(names[:SHOWN_NAMES])
        more = len(names) - SHOWN_NAMES
        shown += f" Served: {served}{f' and {more} more' if more > 0 else ''}."
        if self._library is not None and REPOSITORY_NAME.fullmatch(name):
            shown += f" Fetch it with: budmlx pull {name}"
        return shown


def _settings(spec: ModelSpec) -> dict[str, Any]:
    """What is said of the model itself, and not of its names."""
    return {
        name: getattr(spec.config, name) for name in ModelConfig.model_fields.keys() - NOT_OF_LOADS
    }


def offered(config: Config, library: Library) -> tuple[list[ModelSpec], bool]:
    """The models that a configuration offers, and whether those of the library are, too.

    Without one that is named these are the ones that have tables, and all of the library; the demo
    model where there is none. The only one is fetched from the hub if need be.
    """
    if config.demo:
        return [demo(config)], False
    if config.model is not None:
        return [replace(configured(config.for_model(), library), fetch=True)], False
    specs = [configured(config.for_model(label), library) for label in config.models]
    others = any(each.servable for each in library.models())
    if not specs and not others:
        return [demo(config)], True
    if len(specs) == 1 and not others:
        return [replace(specs[0], fetch=True)], True
    preloaded = set(config.preload)
    return [
        replace(spec, fetch=not preloaded.isdisjoint((spec.name, *spec.aliases))) for spec in specs
    ], True


def demo(config: Config) -> ModelSpec:
    """The model that comes with budmlx."""
    values: dict[str, Any] = {"model": None, "revision": None, "models": {}}
    values["alias"] = (*config.alias, DEMO)
    return spec_of(DEMO_NAME, config.model_copy(update=values), Library().at(SHIPPED_MODEL))


def configured(config: Config, library: Library) -> ModelSpec:
    """The model that a configuration names; see `Config.for_model`."""
    assert config.model is not None
    name, path = model_name(config.model), Path(config.model).expanduser()
    if path.is_dir():
        return spec_of(name, config, library.at(path))
    # Another revision than that which is here may be fetched.
    here = library.lookup(config.model) if config.revision is None else None
    return ModelSpec(name, config) if here is None else spec_of(name, config, here)


def described(config: Config, model: LocalModel) -> ModelSpec:
    """A model of the library, with the settings that it has in a configuration."""
    own = config.for_model(model.name).model_copy(update={"model": str(model.path)})
    return spec_of(model.name, own, model)


def spec_of(name: str, config: Config, model: LocalModel) -> ModelSpec:
    """A model whose files are here. config: with its own settings."""
    created = int(model.path.stat().st_mtime) if model.path.exists() else 0
    weights, kv = model.weights, model.kv
    if config.draft_model is not None:
        drafter = local_draft_model(config, config.models_dir)
        # Before it is here, nobody knows what both take.
        weights = weights + drafter.weights if drafter is not None and drafter.weights else 0
        kv = None if drafter is None else with_drafter(kv, drafter.kv)
    return ModelSpec(
        name,
        config,
        weights=weights,
        context=model.context,
        kv=kv,
        embeds=model.kind == "embedding" or config.pooling is not None,
        created=created,
    )
