"""Settings of plugins: read by the plugin, and checked when it is loaded."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from budmlx import hookimpl
from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import SamplerSpec
from tests.plugins.packages import Site


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "red"
    size: int = 1

    @field_validator("colour")
    @classmethod
    def known(cls, colour: str) -> str:
        if colour not in ("red", "blue"):
            raise ValueError("there is red and blue")
        return colour


class Plugin:
    def __init__(self) -> None:
        self.plugin_options = {"pear": Settings}
        self.settings: Settings | None = None

    @hookimpl
    def add_samplers(self, config: Config) -> list[SamplerSpec]:
        self.settings = config.options_of("pear", Settings)
        return []


class Plain:
    @hookimpl
    def add_samplers(self) -> list[SamplerSpec]:
        return []


class Reader:
    """Declares nothing, and reads its settings when it needs them."""

    @hookimpl
    def provide_response_cache(self, config: Config) -> None:
        config.options_of("apple", Settings)


def load(*plugins: object, **settings: Any) -> Plugins:
    return Plugins.load(Config.of(engine_host="thread", **settings), plugins)


def test_declared_settings_reach_the_plugin() -> None:
    plugin = Plugin()
    load(plugin, plugin_option=("pear.colour=blue", "pear.size=3"))
    assert plugin.settings == Settings(colour="blue", size=3)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("pear.colour", "'pear.colour' is not of the form plugin.setting=value."),
        ("pear.color=red", "Plugin pear: color: there is no such setting (did you mean colour?)."),
        ("pear.colour=pink", "Plugin pear: colour: there is red and blue."),
        ("pear.size=x", "Plugin pear: size: must be a valid integer"),
        ("peer.size=1", "there are no settings of peer; did you mean pear?"),
        ("fig.size=1", "there are no settings of fig; only of pear."),
        ("memory-cache.size=1", "there are no settings of memory-cache; only of pear."),
    ],
)
def test_options_that_no_plugin_takes_fail_the_start(option: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Plain(), Declared(), plugin_option=(option,))
    assert caught.value.param == "plugin_option"
    assert problem in caught.value.message and "Value error" not in caught.value.message


INSTALLED = """
    import budmlx, pydantic
    class Settings(pydantic.BaseModel, extra="forbid"):
        size: int = 1
    plugin_options = {"apple": Settings}
    @budmlx.hookimpl
    def add_samplers(config):
        config.options_of("apple", Settings)
        return []
"""


@pytest.mark.parametrize(
    ("option", "problem"),
    [("size=x", "size: must be a valid integer"), ("colour=x", "colour: there is no such setting")],
)
def test_wrong_options_that_a_hook_reads_fail_the_start(
    site: Site, option: str, problem: str
) -> None:
    site.install("apple", INSTALLED)
    with pytest.raises(ConfigError) as caught:
        load(plugin_option=(f"apple.{option}",))
    assert caught.value.message.startswith(f"Plugin apple: {problem}")
    assert caught.value.param == "plugin_option"


def test_two_plugins_cannot_have_settings_of_the_same_name(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("apple", INSTALLED)
    site.install("pear", INSTALLED)
    plugins = load(plugin_option=("apple.size=2",))
    assert {info.name for info in plugins.info if info.problem} == {"pear"}
    assert "Plugin pear is left out: the plugin apple has settings of apple, too" in caplog.text


class Declared(Plain):
    """Declares settings and has not read them yet."""

    plugin_options: ClassVar = {"pear": Settings}


def test_without_any_settings_every_option_fails_the_start(site: Site) -> None:
    site.install("apple", "import budmlx\n@budmlx.hookimpl\ndef add_samplers(): return []")
    with pytest.raises(ConfigError, match="of apple: no plugin that is loaded has any"):
        load(plugin_option=("apple.size=1",))


def test_a_plugin_that_declares_nothing_checks_its_options_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        plugins = load(Reader(), Plugin(), plugin_option=("apple.size=x",))
    assert "no plugin declares settings of apple" in caplog.text
    with pytest.raises(ConfigError, match="Plugin apple: size: must be a valid integer"):
        plugins.response_cache(Config.of(plugin_option=("apple.size=x",)))


@pytest.mark.parametrize("blocked", [False, True])
def test_options_of_a_plugin_that_is_left_out_are_no_error(site: Site, blocked: bool) -> None:
    site.install("bad", "raise RuntimeError")
    load(plugin_option=("bad.size=1",), block_plugin=("bad",) if blocked else ())


def test_options_of_a_plugin() -> None:
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = 1
        path: str = ""

    config = Config.of(plugin_option=("pear.size=5", "pear.path=a=b", "apple.size=x"))
    assert config.options_of("pear", Options) == Options(size=5, path="a=b")
    assert config.options_of("quince", Options) == Options()
    with pytest.raises(ConfigError, match=r"Plugin apple: size: must be a valid integer"):
        config.options_of("apple", Options)
    with pytest.raises(ConfigError, match="not of the form"):
        Config.of(plugin_option=("pear",)).options_of("pear", Options)
    with pytest.raises(ConfigError, match="Plugin pear: colour: there is no such setting"):
        Config.of(plugin_option=("pear.colour=red",)).options_of("pear", Options)
