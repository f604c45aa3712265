"""Plugin manager: loads plugins, checks each as a whole, and collects what they add."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeVar

import pluggy

from budmlx import __version__
from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.plugins import hookspecs
from budmlx.plugins.boundary import is_interrupt
from budmlx.plugins.discovery import GROUP, Candidate, Source, candidates, version_of
from budmlx.plugins.hanging import HangingCalls
from budmlx.plugins.hook_results import ADDED, CHOSEN
from budmlx.plugins.hookspecs import RINGS
from budmlx.plugins.limits import DEFAULTS, PluginLimits
from budmlx.plugins.observers import Observers
from budmlx.plugins.parsing import ModelTraits
from budmlx.plugins.settings import Declared, Settings, declared_by
from budmlx.plugins.specs import RequestRecord, ResponseCache
from budmlx.plugins.vision import ModelFiles, ModelLoaderSpec, VisionEncoderSpec

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Owned(Generic[T]):
    """A value that a plugin added, with the plugin's name."""

    plugin: str
    value: T


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin that was found. problem: why it is left out; empty when it is loaded."""

    name: str
    source: Source
    version: str = ""
    hooks: tuple[str, ...] = ()
    problem: str = ""

    @property
    def rings(self) -> tuple[str, ...]:
        """The rings in which it acts."""
        return tuple(dict.fromkeys(RINGS[hook] for hook in self.hooks))


@dataclass(slots=True)
class _Plugin:
    info: PluginInfo
    required: bool
    settings: Declared
    takes_config: bool
    added: dict[str, tuple[Any, ...]] = field(default_factory=dict)


class LoadProblem(Exception):
    """A plugin is left out; the text says why."""


class Plugins:
    """The plugins of one engine, whole or not at all.

    info: every plugin that was found, also those left out. digest: names and versions of
    the loaded ones; it changes when replies may. observed: whether any of them implements
    `on_request_finished`. limits: of what calls of plugins may take. hanging: the calls
    that take longer. config: what hooks get.
    """

    def __init__(self, found: Sequence[Candidate], config: Config, limits: PluginLimits = DEFAULTS):
        self.limits = limits
        self._config = config
        self.hanging = HangingCalls(limits.call_seconds, limits.hanging_calls)
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._loaded: dict[str, _Plugin] = {}
        infos = [self._load(candidate) for candidate in found]
        # pluggy calls first what was registered last.
        for name in reversed(self._loaded):
            self._manager.register(self._manager.unregister(name=name), name)
        self.info = tuple(info for info in infos if info is not None)
        self._settings().check(config)
        observers = self._order("on_request_finished")
        self.observed = bool(observers)
        self._observers = Observers(
            (
                (name, partial(self._caller("on_request_finished", name), config=config))
                for name in observers
            ),
            limits,
        )
        self.digest = self._digest()

    @classmethod
    def load(
        cls,
        config: Config,
        objects: Sequence[object] = (),
        limits: PluginLimits = DEFAULTS,
    ) -> Plugins:
        """Load what the configuration admits, and live `objects`.

        Raises:
            ConfigError: a plugin that was named or handed over cannot be loaded, live objects
                are given although the core is another process, or an option is no plugin's, or
                refused by one.
        """
        if objects and config.engine_host == "process":
            raise ConfigError(
                "The process host takes plugins by name only, since the core is another process: "
                "install the plugin or name its module, or use engine_host='thread'.",
                param="plugins",
            )
        return cls(candidates(config, objects), config, limits)

    # Loading

    def _load(self, candidate: Candidate) -> PluginInfo | None:
        """Load one plugin; None if it is loaded already under another name."""
        version = candidate.version
        try:
            plugin = _imported(candidate)
            if self._manager.is_registered(plugin):
                return None
            if candidate.source == "built-in":
                version = __version__
            version = version or version_of(plugin)
            hooks = self._register(plugin, candidate.name)
            info = PluginInfo(candidate.name, candidate.source, version, hooks)
            loaded = self._checked(plugin, info, candidate)
            for hook in hooks:
                if hook in ADDED:
                    loaded.added[hook] = self._collect(candidate.name, hook)
        except LoadProblem as problem:
            self._forget(candidate.name)
            return _left_out(candidate, version, str(problem))
        self._loaded[candidate.name] = loaded
        return info

    def _checked(self, plugin: object, info: PluginInfo, candidate: Candidate) -> _Plugin:
        try:
            settings = declared_by(plugin)
        except ValueError as error:
            raise LoadProblem(str(error)) from error
        for other in self._loaded.values():
            if twice := sorted(settings.keys() & other.settings.keys()):
                raise LoadProblem(f"the plugin {other.info.name} has settings of {twice[0]}, too")
        hooks = (getattr(self._manager.hook, hook).get_hookimpls() for hook in info.hooks)
        takes_config = any(
            "config" in each.argnames
            for each in chain.from_iterable(hooks)
            if each.plugin_name == info.name
        )
        return _Plugin(info, candidate.required, settings, takes_config)

    def _settings(self) -> Settings:
        declared = {
            name: model for each in self._loaded.values() for name, model in each.settings.items()
        }
        silent = {
            name: each.takes_config and each.info.source != "built-in"
            for name, each in self._loaded.items()
            if not each.settings
        }
        left_out = {info.name for info in self.info if info.problem}
        return Settings(declared, silent, left_out | set(self._config.block_plugin))

    def _register(self, plugin: object, name: str) -> tuple[str, ...]:
        """Names of the hooks that the plugin implements, if all of them exist."""
        if name in self._loaded:
            raise LoadProblem("another plugin has the same name")
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise LoadProblem(self._refusal(plugin)) from error
        callers = self._manager.get_hookcallers(plugin) or []
        hooks = sorted(caller.name for caller in callers)
        for hook in hooks:
            if hook not in RINGS:
                close = difflib.get_close_matches(hook, RINGS, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise LoadProblem(f"there is no hook {hook}{hint}")
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.wrapper or implementation.hookwrapper:
                    raise LoadProblem(f"{caller.name} is a wrapper, which budmlx has no use for")
                if _is_async(implementation.function):
                    raise LoadProblem(
                        f"{caller.name} is async, but nothing would await it; make it a plain def"
                    )
        if not hooks:
            raise LoadProblem("it implements no hook; mark functions with @budmlx.hookimpl")
        return tuple(hooks)

    def _refusal(self, plugin: object) -> str:
        """Why pluggy does not take the hooks of a plugin."""
        for hook in RINGS:
            known = getattr(self._manager.hook, hook).spec.argnames
            for name in _arguments(getattr(plugin, hook, None)):
                if name not in known:
                    return f"{hook} has no argument {name}; it may take {', '.join(known)}"
        return "one of its hooks is not a plain function"

    def _collect(self, name: str, hook: str) -> tuple[Any, ...]:
        try:
            values = tuple(chain.from_iterable(self._caller(hook, name)(config=self._config)))
        except ConfigError:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise LoadProblem(f"{hook} failed: {_words(error)}") from error
        for value in values:
            if not isinstance(value, ADDED[hook]):
                kind = ADDED[hook].__name__
                raise LoadProblem(f"{hook} returned a {type(value).__name__}, not a {kind}")
        return values

    def _forget(self, name: str) -> None:
        if name not in self._loaded and self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _caller(self, hook: str, name: str) -> pluggy.HookCaller:
        """A caller of a hook of this plugin alone."""
        others = [
            plugin for other, plugin in self._manager.list_name_plugin() if other != name and plugin
        ]
        return self._manager.subset_hook_caller(hook, others)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for plugin in self._loaded.values():
            # Nothing tells one version of a live object from another.
            version = plugin.info.version or uuid.uuid4().hex
            digest.update(f"{plugin.info.name} {version}\n".encode())
        return digest.hexdigest()

    # What plugins provide

    def _order(self, hook: str) -> list[str]:
        """Names of the plugins that implement a hook, in the order of the calls."""
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return [implementation.plugin_name for implementation in reversed(implementations)]

    def added(self, hook: str) -> list[Owned[Any]]:
        """All values that plugins added by an `add_` hook, in the order of the calls."""
        return [
            Owned(name, value)
            for name in self._order(hook)
            for value in self._loaded[name].added.get(hook, ())
        ]

    def named(self, hook: str) -> Mapping[str, Owned[Any]]:
        """The values of an `add_` hook by their names; the first of a name is used."""
        named: dict[str, Owned[Any]] = {}
        for owned in self.added(hook):
            first = named.setdefault(owned.value.name, owned)
            if first is not owned:
                log.warning(
                    "%s of plugin %s hides that of %s", owned.value.name, first.plugin, owned.plugin
                )
        return named

    def ships(self, name: str) -> bool:
        """Whether a plugin ships with budmlx."""
        return self._loaded[name].info.source == "built-in"

    def required(self, name: str) -> bool:
        """Whether the start must fail when this plugin does."""
        return self._loaded[name].required

    def response_cache(self, config: Config) -> Owned[ResponseCache] | None:
        """Open the response cache of the first plugin that provides one.

        Raises:
            ConfigError: a plugin that the configuration names failed, or its settings are wrong.
        """
        return self._first("provide_response_cache", ResponseCache, config=config)

    def chosen(self, hook: str, name: str, model: ModelTraits | ModelFiles) -> Owned[Any] | None:
        """The parser or preprocessor that a hook provides for a model; None if there is none.

        name: the value of the hook's setting.

        Raises:
            ConfigError: no plugin knows the name, or a plugin that must load failed.
        """
        if name == "none":
            return None
        found = self._first(hook, CHOSEN[hook], name=name, model=model, config=self._config)
        if found is None and name != "auto":
            setting = hook.removeprefix("provide_")
            raise ConfigError(f"{setting}: no plugin knows {name!r}.", param=setting)
        return found

    def vision_encoder(self, model: ModelFiles) -> Owned[VisionEncoderSpec] | None:
        """The vision encoder for a model; None if no plugin provides one. Raises ConfigError."""
        return self._first(
            "provide_vision_encoder", VisionEncoderSpec, model=model, config=self._config
        )

    def loader(self, model_type: str) -> Owned[ModelLoaderSpec] | None:
        """The loader for a type of models; None leaves it to mlx-lm."""
        loaders = self.added("add_model_loaders")
        return next((each for each in loaders if model_type in each.value.model_types), None)

    @property
    def loaded_types(self) -> frozenset[str]:
        """The types of models that plugins load."""
        loaders = self.added("add_model_loaders")
        return frozenset(kind for each in loaders for kind in each.value.model_types)

    def _first(self, hook: str, wanted: type, **arguments: Any) -> Owned[Any] | None:
        """The result of the first plugin that provides anything. Raises ConfigError."""
        what = hook.removeprefix("provide_").replace("_", " ")
        for name in self._order(hook):
            try:
                value = self._caller(hook, name)(**arguments)
                if value is None:
                    continue
                if isinstance(value, wanted):
                    return Owned(name, value)
                problem = f"it provided a {type(value).__name__}, not a {wanted.__name__}"
            except ConfigError:
                raise
            except BaseException as error:
                if is_interrupt(error):
                    raise
                problem = _words(error)
            if self.required(name):
                raise ConfigError(f"Plugin {name} cannot provide a {what}: {problem}.")
            log.error("Plugin %s cannot provide a %s: %s", name, what, problem)
        return None

    def request_finished(self, record: RequestRecord) -> None:
        """Queue a record for every plugin with `on_request_finished`; waits for none."""
        self._observers.tell(record)

    def close(self) -> None:
        """Wait up to `observers.CLOSE_SECONDS` for plugins to receive the last records."""
        self._observers.finish()


def _imported(candidate: Candidate) -> object:
    try:
        plugin = candidate.load()
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise LoadProblem(f"it cannot be imported: {_words(error)}") from error
    if inspect.isclass(plugin):
        raise LoadProblem("it is a class; name a module or an instance")
    return plugin


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _arguments(function: object) -> list[str]:
    """The arguments that pluggy passes to a hook."""
    if not callable(function):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.default is each.empty]


def _left_out(candidate: Candidate, version: str, problem: str) -> PluginInfo:
    """Report a broken plugin. Raises ConfigError if it is required."""
    if candidate.required:
        raise ConfigError(f"Plugin {candidate.name} cannot be loaded: {problem}.", param="plugin")
    log.error("Plugin %s is left out: %s", candidate.name, problem)
    return PluginInfo(candidate.name, candidate.source, version, problem=problem)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
