"""Models: several models as one object, each loaded when it is wanted."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from budmlx.backend import check_backend
from budmlx.config import Config
from budmlx.engine.engine import DEMO_NAME, Engine
from budmlx.engine.hosts.device_memory import device_memory
from budmlx.engine.load.draft_model import find_draft_model
from budmlx.engine.load.hub import SHIPPED_MODEL, Fetch, pull_with_bar, resolve_model
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.pull import PullProgress
from budmlx.engine.models.catalogue import FRESH_SECONDS, Catalogue, offered, spec_of
from budmlx.engine.models.descriptions import Descriptions
from budmlx.engine.models.residency import Residency
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.engine.models.room import ResidencyPolicy
from budmlx.engine.models.unloaded import Outlook, UnloadedModels
from budmlx.engine.run.adapters import unknown_adapter
from budmlx.errors import EngineUnavailableError, ModelLoadError
from budmlx.plugins.manager import Plugins
from budmlx.progress import Notice
from budmlx.types import Request
from budmlx.units import size_text

MOST_DOWNLOADS = 2
"""So many models are fetched at once."""


class ServedModel:
    """A model under one of its names, ready to be held.

    resident: its state, to be looked at. adapter: that of the name, or empty.
    """

    def __init__(self, resident: Resident, adapter: str, residency: Residency, wait: float):
        self.resident = resident
        self.adapter = adapter
        self._residency = residency
        self._wait = wait

    @property
    def name(self) -> str:
        """What the model itself is called."""
        return self.resident.spec.name

    @asynccontextmanager
    async def aengine(self, *, patient: bool = False) -> AsyncIterator[Engine]:
        """The engine, which stays loaded until the block ends; loads it if need be.

        patient: wait for a load however long it takes.

        Raises:
            EngineUnavailableError, OverloadedError: it cannot be loaded now; retry later.
            ModelLoadError: it cannot be loaded.
        """
        engine = self._residency.request(self.resident)
        if isinstance(engine, Future):
            engine = await self._waited(engine, None if patient else self._wait)
        try:
            yield engine
        finally:
            self._residency.release(self.resident)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """`aengine` for threads."""
        engine = self._residency.request(self.resident)
        if isinstance(engine, Future):
            loading = engine
            try:
                engine = loading.result(self._wait)
            except FutureTimeoutError:
                self._residency.leave(self.resident, loading)
                raise self._late() from None
            except BaseException:
                self._residency.withdraw(self.resident, loading)
                raise
        try:
            yield engine
        finally:
            self._residency.release(self.resident)

    async def _waited(self, loading: Future[Engine], seconds: float | None) -> Engine:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await asyncio.shield(asyncio.wrap_future(loading))
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                self._residency.leave(self.resident, loading)
                raise self._late() from None
            self._residency.withdraw(self.resident, loading)
            raise

    @property
    def longest(self) -> int | None:
        """Most tokens of a prompt and its reply together, as far as is known: of a model that is
        not loaded those that it would have room for now.
        """
        resident = self.resident
        if resident.engine is not None:
            return resident.longest
        return resident.spec.longest(self._residency.outlook(resident)[1])

    def keep(self, seconds: float) -> None:
        """Have it unloaded after so long without a user; see `Residency.keep`."""
        self._residency.keep(self.resident, seconds)

    def _late(self) -> EngineUnavailableError:
        words = self.resident.progress
        return EngineUnavailableError(
            f"{self.name} is still being loaded{f': {words}' if words else ''}; retry later.",
            retry_after=max(1, min(30, int(self._wait))),
        )


class Models:
    """The models that a configuration offers, loaded when they are wanted. Thread-safe.

    >>> with Models(config) as models, models.engine("org/name") as engine:
    ...     engine.chat("Hi")

    plugins: those of the server: their routes and observers. Each engine has its own.
    library: the models on this machine, whether or not they are served. descriptions: what is
    known of those that are.
    """

    def __init__(self, config: Config):
        """See what there is; nothing is loaded before it is wanted.

        Raises:
            ConfigError: the settings are wrong, or a plugin cannot be loaded.
        """
        check_backend()
        self.plugins = Plugins.load(config)
        self.library = library = Library.of(config, self.plugins)
        specs, all_local = offered(config, library)
        catalogue = Catalogue(config, specs, library if all_local else None, any_name=config.demo)
        self._set(config, catalogue)
        residents = self.residents
        if len(residents) == len(specs) == 1 and residents[0].idle_seconds == math.inf:
            # It makes way for none, even if others come: plugins may have its engine.
            residents[0].pinned = True

    @classmethod
    def of(cls, engine: Engine, names: Sequence[str] = (), *, any_name: bool = False) -> Self:
        """A single model that is loaded already, under its own name and others."""
        self = cls.__new__(cls)
        config = Config.model_construct(alias=tuple(names))
        self.plugins = engine.plugins
        self.library = Library()
        resident = Resident(ModelSpec(engine.info.name, config), pinned=True)
        self._set(config, Catalogue(config, any_name=any_name))
        self._catalogue.add(resident)
        self._residency.adopt(resident, engine)
        return self

    def _set(self, config: Config, catalogue: Catalogue) -> None:
        self._config = config
        self._catalogue = catalogue
        self._closing = threading.Event()
        self._asking, self._asked = threading.Lock(), False
        self._downloads = threading.BoundedSemaphore(MOST_DOWNLOADS)
        self._residency = Residency(self._open, self._find, _policy(config))
        self.descriptions = Descriptions(self.library, self.plugins)
        self._unloaded = UnloadedModels(self.plugins, self.library)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload everything, and end downloads. Idempotent."""
        self._closing.set()
        self._residency.close()
        self._unloaded.close()
        self.plugins.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is listed: of each model its own, its aliases, and its adapters'."""
        return tuple(self._catalogue.names)

    @property
    def residents(self) -> tuple[Resident, ...]:
        """Every model, to be looked at."""
        return tuple(self._catalogue)

    @property
    def loaded(self) -> list[Engine]:
        """The engines of the models that are loaded."""
        return [each.engine for each in self._catalogue if each.engine is not None]

    @property
    def only(self) -> Engine | None:
        """The engine, if there is one model and it stays loaded."""
        there = self.residents
        return there[0].engine if len(there) == 1 and there[0].pinned else None

    def refresh(self) -> None:
        """See what has come to this machine, what has gone, and how much memory there is."""
        self._catalogue.refresh()
        self._ask_device()

    def resident(self, name: str) -> Resident:
        """The model that answers to `name`, to be looked at. Raises ModelNotFoundError."""
        return self.find(name).resident

    def find(self, name: str, *, default: bool = True) -> ServedModel:
        """The model that answers to `name`, to be used. Raises ModelNotFoundError.

        default: the model for unknown names may answer. Reads the disk for a name that is not
        known: not for event loops.
        """
        if self._catalogue.needs_refresh(name):
            self._catalogue.refresh(FRESH_SECONDS)
        return self._known(name, default=default)

    async def afind(self, name: str, *, default: bool = True) -> ServedModel:
        """`find` for event loops."""
        if name not in self._catalogue.by_name and self._catalogue.needs_refresh(name):
            await asyncio.to_thread(self._catalogue.refresh, FRESH_SECONDS)
        return self._known(name, default=default)

    def _known(self, name: str, *, default: bool = True) -> ServedModel:
        adapter = ""
        if (resident := self._catalogue.by_name.get(name)) is None:
            resident, adapter = self._catalogue.find(name, default=default)
        return ServedModel(resident, adapter, self._residency, self._config.load_wait)

    def reconfigure(self, config: Config) -> list[str]:
        """Take other aliases, tables and settings of models. Reads the disk: not for event loops.

        Models that are loaded go on as they are. Returns the names of those that will have other
        settings when they are loaded again.

        Raises:
            ConfigError: the settings are wrong; nothing has changed then.
        """
        specs, all_local = offered(config, self.library)
        library = self.library if all_local else None
        catalogue = Catalogue(config, specs, library, any_name=config.demo)
        late = catalogue.keep(self._catalogue)
        self._config, self._catalogue = config, catalogue
        self.descriptions = Descriptions(self.library, self.plugins)
        return late

    def engine(self, name: str) -> AbstractContextManager[Engine]:
        """A context manager: the engine of a model, loaded if need be; see `ServedModel`."""
        return self.find(name).engine()

    def outlook(self, model: ServedModel) -> tuple[list[str], int | None]:
        """The models that would be unloaded if a request came for this one now, and the bytes that
        it would have: 0 if there is no room, None if nobody knows.
        """
        leaving, room = self._residency.outlook(model.resident)
        return [each.name for each in leaving], room

    def estimate(self, model: ServedModel, request: Request) -> Future[Outlook]:
        """What a request to a model that is not loaded would take.

        The future raises the errors of `Engine.estimate`, and ModelLoadError.

        Raises:
            ModelNotFoundError: the model has no such adapter.
            OverloadedError: too many estimates wait.
        """
        if request.adapter and request.adapter not in model.resident.adapters:
            raise unknown_adapter(request.adapter, model.resident.adapters)
        return self._unloaded.submit(partial(self._estimated, model, request))

    def _estimated(self, model: ServedModel, request: Request) -> Outlook:
        resident = model.resident
        path = _path(resident.spec, own=self.plugins.loaded_types)
        read = self._unloaded.read(path, resident.spec)
        spec = resident.spec
        self._residency.learn(resident, spec_of(spec.name, spec.config, self.library.at(path)))
        self._ask_device()
        leaving, room = self.outlook(model)
        longest = None if room is None else resident.spec.longest(room)
        estimate = read.estimate(request, longest)
        return Outlook(estimate, leaving, read.warnings.of(request))

    def _ask_device(self) -> None:
        """Know how much memory there is for all models, if that can be known; it may block."""
        with self._asking:
            if self._residency.total is None and not self._asked:
                self._asked = True
                self._residency.learn_total(device_memory())

    def load(self, name: str, notice: Notice | None = None) -> None:
        """Load a model now, however long it takes. Raises the errors of `ServedModel.aengine`.

        notice: called with words meanwhile, on any thread.
        """
        resident = self.resident(name)
        resident.notice = notice
        engine = self._residency.request(resident)
        if isinstance(engine, Future):
            try:
                engine.result()
            except BaseException:
                self._residency.withdraw(resident, engine)
                raise
        self._residency.release(resident)

    def unload(self, name: str) -> Future[None]:
        """Unload a model once its running requests have ended. Raises ModelNotFoundError."""
        return self._residency.unload(self.resident(name))

    @property
    def to_preload(self) -> list[Resident]:
        """The models that are to be loaded from the start. Raises ModelNotFoundError."""
        only = self.residents if len(self.residents) == 1 else ()
        return [self.resident(name) for name in self._config.preload] or list(only)

    def _find(self, spec: ModelSpec, notice: Notice) -> ModelSpec:
        """The model with what its files say, which are fetched if they may be."""

        def tell(progress: PullProgress) -> None:
            if progress.stage == "downloading":
                notice(f"{size_text(progress.done)} of {size_text(progress.total)} are fetched")

        def fetch(name: str, revision: str | None) -> Path:
            with self._downloads:
                return pull_with_bar(name, revision, tell, self._closing)

        may_fetch, own = fetch if spec.fetch else None, self.plugins.loaded_types
        path = _path(spec, may_fetch, own)
        find_draft_model(spec.config, spec.config.models_dir, own, may_fetch)
        return spec_of(spec.name, spec.config, self.library.at(path))

    def _open(self, spec: ModelSpec, limit: int | None, notice: Notice) -> Engine:
        config = spec.config
        if limit is not None:
            config = config.model_copy(update={"memory_limit": limit})
        name = DEMO_NAME if config.model is None else spec.name
        return Engine(_path(spec, own=self.plugins.loaded_types), name, config, notice=notice)


def _path(spec: ModelSpec, fetch: Fetch | None = None, own: Collection[str] = ()) -> Path:
    """The directory of a model. fetch, own: see `resolve_model`. Raises ModelLoadError."""
    config = spec.config
    if config.model is None:
        return SHIPPED_MODEL
    dirs = config.models_dir
    if fetch is None and Path(config.model).is_absolute() and not Path(config.model).exists():
        raise ModelLoadError(f"{spec.name} is not on this machine any more.")
    return resolve_model(config.model, config.revision, models_dirs=dirs, fetch=fetch, own=own)


def _policy(config: Config) -> ResidencyPolicy:
    budget = None if config.memory_budget == "auto" else int(config.memory_budget)
    return ResidencyPolicy(budget, config.max_models or math.inf, config.min_stay, config.when_full)
