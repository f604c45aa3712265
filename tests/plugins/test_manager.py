"""Plugins are found, ordered, and loaded whole or not at all."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Iterable
from typing import Any

import pytest

from budmlx import hookimpl
from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.plugins.discovery import BUILTINS
from budmlx.plugins.hook_results import CHOSEN
from budmlx.plugins.hookspecs import RINGS
from budmlx.plugins.manager import PluginInfo, Plugins
from budmlx.plugins.parsing import ModelTraits
from budmlx.plugins.specs import (
    CommandSpec,
    LogitsProcessorSpec,
    MessageTransform,
    OutputFilterFactory,
    RequestRecord,
    Route,
    SamplerSpec,
)
from budmlx.plugins.vision import ModelFiles, ModelLoaderSpec
from tests.plugins.packages import Site

COMMAND = """
    from budmlx import hookimpl
    from budmlx.plugins.specs import CommandSpec

    @hookimpl
    def add_commands():
        return [CommandSpec("{0}", "Do {0}.", "{0}.cli:main")]
"""


def load(*objects: object, **settings: Any) -> Plugins:
    return Plugins.load(Config.of(engine_host="thread", **settings), objects)


def commands(plugins: Plugins) -> list[str]:
    return [owned.value.name for owned in plugins.added("add_commands")]


def info(plugins: Plugins, name: str) -> PluginInfo:
    (found,) = [info for info in plugins.info if info.name == name]
    return found


def test_an_installed_plugin_is_found(site: Site) -> None:
    site.install("pear", COMMAND.format("pear"), version="2.3")
    plugins = load()
    assert info(plugins, "pear") == PluginInfo("pear", "installed", "2.3", ("add_commands",))
    assert info(plugins, "pear").rings == ("cli",)
    assert commands(plugins) == ["pear"]


def test_objects_come_first_then_named_then_installed_by_name(site: Site) -> None:
    for name in ("pear", "apple", "quince"):
        site.install(name, COMMAND.format(name))
    site.module("named", COMMAND.format("named"))
    live = types.ModuleType("live")
    exec("if True:" + COMMAND.format("live"), vars(live))
    plugins = load(live, plugin=("named",))
    assert commands(plugins) == ["live", "named", "apple", "pear", "quince"]
    others = ["object", "named", *["installed"] * 3]
    assert [i.source for i in plugins.info] == [*others, *["built-in"] * len(BUILTINS)]


def test_tryfirst_and_trylast_move_an_implementation(site: Site) -> None:
    for name in ("apple", "pear"):
        site.install(name, COMMAND.format(name))
    first = COMMAND.format("last").replace("@hookimpl", "@hookimpl(tryfirst=True)")
    site.install("zebra", first)
    assert commands(load()) == ["last", "apple", "pear"]


def test_of_two_with_one_name_the_first_wins(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.install("one", COMMAND.format("same"))
    site.install("two", COMMAND.format("same"))
    assert load().named("add_commands")["same"].plugin == "one"
    assert "same of plugin one hides that of two" in caplog.text


def test_blocked_plugins_are_not_even_imported(site: Site) -> None:
    site.install("pear", "raise RuntimeError('imported')")
    plugins = load(block_plugin=("pear", *BUILTINS))
    assert plugins.info == ()


def test_blocking_what_is_not_there_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    load(block_plugin=("nope",))
    assert "There is no plugin nope to block" in caplog.text


def test_without_autoload_only_named_plugins_load(site: Site) -> None:
    site.install("pear", COMMAND.format("pear"))
    site.install("apple", COMMAND.format("apple"))
    assert commands(load(plugin_autoload=False, plugin=("pear",))) == ["pear"]


def test_naming_and_blocking_is_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="named by plugin and by block_plugin"):
        load(plugin=("pear",), block_plugin=("pear",))


def test_a_plugin_that_is_found_twice_loads_once(site: Site) -> None:
    site.install("pear", COMMAND.format("pear"))
    plugins = load(plugin=("fake_pear",))
    assert commands(plugins) == ["pear"]
    assert [found.name for found in plugins.info] == ["fake_pear", *BUILTINS]


BROKEN = {
    "raises on import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "exits on import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "does not parse": ("def", "SyntaxError"),
    "misses a dependency": ("import not_there_at_all", "No module named 'not_there_at_all'"),
    "misspells a hook": (
        "import budmlx\n@budmlx.hookimpl\ndef add_sampler(): return []",
        "there is no hook add_sampler; did you mean add_samplers?",
    ),
    "wants an unknown argument": (
        "import budmlx\n@budmlx.hookimpl\ndef add_samplers(flavour): return []",
        "add_samplers has no argument flavour; it may take config",
    ),
    "wants an argument of another hook": (
        "import budmlx\n@budmlx.hookimpl\ndef provide_tool_parser(record, name): return None",
        "provide_tool_parser has no argument record; it may take name, model, config",
    ),
    "is no wrapper but says so": (
        "import budmlx\n@budmlx.hookimpl(wrapper=True)\ndef add_samplers(): return []",
        "one of its hooks is not a plain function",
    ),
    "declares settings in another way": (
        "import budmlx\nplugin_options = ['x']\n@budmlx.hookimpl\ndef add_samplers(): return []",
        "plugin_options must be a dict from names to pydantic models",
    ),
    "has no hook": ("x = 1", "it implements no hook"),
    "is a wrapper": (
        "import budmlx\n@budmlx.hookimpl(wrapper=True)\ndef add_samplers(): return (yield)",
        "add_samplers is a wrapper",
    ),
    "is async": (
        "import budmlx\n@budmlx.hookimpl\nasync def add_routes(): return []",
        "add_routes is async, but nothing would await it",
    ),
    "is async elsewhere": (
        "import budmlx\n@budmlx.hookimpl\nasync def add_commands(config): yield 1",
        "add_commands is async, but nothing would await it",
    ),
    "raises when asked": (
        "import budmlx\n@budmlx.hookimpl\ndef add_samplers(): return 1 / 0",
        "add_samplers failed: ZeroDivisionError",
    ),
    "returns no list": (
        "import budmlx\n@budmlx.hookimpl\ndef add_samplers(): return 7",
        "add_samplers failed: TypeError",
    ),
    "returns other things": (
        "import budmlx\n@budmlx.hookimpl\ndef add_samplers(): return ['mirostat']",
        "add_samplers returned a str, not a SamplerSpec",
    ),
    "has a sampler without options": (
        "import budmlx\nfrom budmlx.plugins.specs import SamplerSpec\n@budmlx.hookimpl\n"
        "def add_samplers(): return [SamplerSpec('x', dict, 'a.b:c')]",
        "the options of x must be a pydantic model class",
    ),
    "has a sampler from nowhere": (
        "import budmlx, pydantic\nfrom budmlx.plugins.specs import SamplerSpec\n@budmlx.hookimpl\n"
        "def add_samplers(): return [SamplerSpec('x', pydantic.BaseModel, 'a.b.c')]",
        "'a.b.c' is not of the form package.module:attribute",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_reported_and_left_out(
    site: Site, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, reason = BROKEN[kind]
    half = "import budmlx\n@budmlx.hookimpl\ndef on_request_finished(record): record.boom\n"
    site.install("apple", COMMAND.format("apple"))
    site.install("bad", source if "no hook" in kind else half + source)
    site.install("pear", COMMAND.format("pear"))
    with caplog.at_level(logging.ERROR):
        plugins = load()
    assert reason in info(plugins, "bad").problem
    assert info(plugins, "bad").hooks == ()
    assert "Plugin bad is left out" in caplog.text
    assert commands(plugins) == ["apple", "pear"]
    caplog.clear()
    plugins.request_finished(RequestRecord(model="m", outcome="completed"))
    plugins.close()
    assert not caplog.text


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_that_is_named_fails_the_start(site: Site, kind: str) -> None:  # LIMITS 118
    source, reason = BROKEN[kind]
    site.install("bad", source)
    with pytest.raises(ConfigError) as caught:
        load(plugin=("bad",))
    assert caught.value.message.startswith("Plugin bad cannot be loaded: ")
    assert reason in caught.value.message


@pytest.mark.parametrize("name", ["not_there", "fake_pear:not_there", "not there", "fake_pear:"])
def test_a_name_that_leads_nowhere_fails_the_start(site: Site, name: str) -> None:
    site.module("fake_pear", COMMAND.format("pear"))
    if name == "fake_pear:":
        assert commands(load(plugin=(name,))) == ["pear"]
        return
    with pytest.raises(ConfigError, match=f"Plugin {name} cannot be loaded"):
        load(plugin=(name,))


def test_an_entry_point_to_a_class_is_refused(site: Site) -> None:
    site.module("fake", "class Plugin:\n    pass\n")
    site.metadata("pear", "fake:Plugin")
    assert "it is a class" in info(load(), "pear").problem


def test_two_distributions_with_one_plugin_name(site: Site) -> None:
    site.install("pear", COMMAND.format("pear"))
    site.module("other", COMMAND.format("other"))
    site.metadata("pear", "other", distribution="other")
    problems = [found.problem for found in load().info if found.name == "pear"]
    assert sorted(problems) == ["", "another plugin has the same name"]


class Observer:
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def on_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


class Curious:
    """Takes `config` in every hook."""

    def __init__(self) -> None:
        self.told: dict[str, object] = {}

    def _note(self, hook: str, config: Config) -> tuple[()]:
        self.told[hook] = config.plugin_option
        return ()

    @hookimpl
    def add_samplers(self, config: Config) -> Iterable[SamplerSpec]:
        return self._note("add_samplers", config)

    @hookimpl
    def add_logits_processors(self, config: Config) -> Iterable[LogitsProcessorSpec]:
        return self._note("add_logits_processors", config)

    @hookimpl
    def add_model_loaders(self, config: Config) -> Iterable[ModelLoaderSpec]:
        return self._note("add_model_loaders", config)

    @hookimpl
    def add_message_transforms(self, config: Config) -> Iterable[MessageTransform]:
        return self._note("add_message_transforms", config)

    @hookimpl
    def add_output_filters(self, config: Config) -> Iterable[OutputFilterFactory]:
        return self._note("add_output_filters", config)

    @hookimpl
    def add_routes(self, config: Config) -> Iterable[Route]:
        return self._note("add_routes", config)

    @hookimpl
    def add_commands(self, config: Config) -> Iterable[CommandSpec]:
        return self._note("add_commands", config)

    @hookimpl
    def provide_response_cache(self, config: Config) -> None:
        self._note("provide_response_cache", config)

    @hookimpl
    def provide_tool_parser(self, name: str, model: ModelTraits, config: Config) -> None:
        self._note("provide_tool_parser", config)

    @hookimpl
    def provide_reasoning_parser(self, config: Config) -> None:
        self._note("provide_reasoning_parser", config)

    @hookimpl
    def provide_vision_preprocessor(self, config: Config) -> None:
        self._note("provide_vision_preprocessor", config)

    @hookimpl
    def provide_vision_encoder(self, config: Config) -> None:
        self._note("provide_vision_encoder", config)

    @hookimpl
    def on_request_finished(self, config: Config) -> None:
        self._note("on_request_finished", config)


def test_every_hook_may_take_the_configuration() -> None:
    plugin = Curious()
    plugins = load(plugin, plugin_option=("mine.x=1",), block_plugin=tuple(BUILTINS))
    traits, files = ModelTraits("llama", ""), ModelFiles("", {})
    plugins.response_cache(Config.of(plugin_option=("mine.x=1",)))
    for hook in CHOSEN:
        plugins.chosen(hook, "auto", files if "vision" in hook else traits)
    plugins.vision_encoder(files)
    plugins.request_finished(RequestRecord(model="m", outcome="completed"))
    plugins.close()
    assert plugin.told == dict.fromkeys(RINGS, ("mine.x=1",))


def test_an_object_can_be_a_plugin() -> None:
    observer = Observer()
    plugins = load(observer)
    assert plugins.observed and not load().observed
    record = RequestRecord(model="m", outcome="failed", error="e")
    plugins.request_finished(record)
    plugins.close()
    assert observer.records == [record]


def test_objects_do_not_go_to_another_process() -> None:
    with pytest.raises(ConfigError, match="process host takes plugins by name"):
        Plugins.load(Config.of(engine_host="process"), [Observer()])


def test_an_observer_that_raises_hides_nothing_from_the_others(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install(
        "angry",
        "import budmlx\n@budmlx.hookimpl\ndef on_request_finished(record): raise SystemExit",
    )
    observer = Observer()
    plugins = Plugins.load(Config.of(engine_host="thread"), [observer])
    plugins.request_finished(RequestRecord(model="m", outcome="cancelled"))
    plugins.close()
    assert len(observer.records) == 1
    assert "Plugin angry failed in its on_request_finished" in caplog.text


def test_the_digest_follows_names_and_versions(site: Site) -> None:
    empty = load().digest
    assert empty == load().digest
    site.install("pear", COMMAND.format("pear"), version="1.0")
    one = load().digest
    assert load(block_plugin=("pear",)).digest == empty
    site.module("loose", COMMAND.format("loose"))
    loose = load(plugin=("loose",)).digest
    assert len({empty, one, loose}) == 3
    observer = Observer()
    assert load(observer).digest != load(observer).digest


def test_a_loose_module_has_the_version_of_its_source(site: Site) -> None:
    site.module("loose", COMMAND.format("loose"))
    version = info(load(plugin=("loose",)), "loose").version
    assert version.startswith("source-")
    site.module("other", "__version__ = '7'" + COMMAND.format("loose").replace("\n    ", "\n"))
    assert info(load(plugin=("other",)), "other").version == "7"


def test_hookimpl_loads_neither_mlx_nor_pydantic() -> None:
    code = "import sys, budmlx; budmlx.hookimpl; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx_lm", "pydantic", "transformers"} & set(done.stdout.split())
