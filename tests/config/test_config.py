"""Where settings come from, which wins, and what a wrong one says."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from budmlx.cli.show_config import to_toml
from budmlx.config import Config, cache_directory, kv_directory, size_or_share
from budmlx.config.sources import LoadedConfig, load_config
from budmlx.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the user who runs the tests."""
    for name in Config.model_fields:
        monkeypatch.delenv(f"BUDMLX_{name.upper()}", raising=False)
    monkeypatch.delenv("BUDMLX_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(("platform", "usual"), [("darwin", "Library/Caches"), ("linux", ".cache")])
def test_caches_are_where_no_backup_looks(
    platform: str, usual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / "home" / usual / "budmlx"
    assert kv_directory() == str(cache_directory() / "kv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_directory() == tmp_path / "elsewhere" / "budmlx"


def toml(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(flags: dict[str, Any], file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(flags, file)
    return caught.value.message


def test_flags_win_over_variables_over_the_file_over_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path / "c.toml", "port = 1\nmax_rows = 2\nmax_queue = 3\n")
    monkeypatch.setenv("BUDMLX_PORT", "4")
    monkeypatch.setenv("BUDMLX_MAX_ROWS", "5")
    loaded = load_config({"port": 6, "host": None}, file)
    config = loaded.config
    assert (config.port, config.max_rows, config.max_queue, config.host) == (6, 5, 3, "127.0.0.1")
    assert loaded.places == {
        "port": "--port",
        "max_rows": "BUDMLX_MAX_ROWS",
        "max_queue": str(file),
    }


def test_the_file_is_named_by_flag_then_variable_then_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_config({}).config.port == 8080
    toml(tmp_path / "home/.config/budmlx/config.toml", "port = 1")
    assert load_config({}).config.port == 1
    monkeypatch.setenv("BUDMLX_CONFIG", str(toml(tmp_path / "b.toml", "port = 2")))
    assert load_config({}).config.port == 2
    assert load_config({}, toml(tmp_path / "c.toml", "port = 3")).config.port == 3


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    assert "no configuration file" in refusal({}, tmp_path / "none.toml")
    assert "is not TOML" in refusal({}, toml(tmp_path / "c.toml", "port: 1"))
    (tmp_path / "d.toml").write_bytes(b"host = '\xff'")
    assert "not UTF-8" in refusal({}, tmp_path / "d.toml")


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDMLX_ALIAS", "gpt-4, llava,")
    monkeypatch.setenv("BUDMLX_API_KEYS", "one,two")
    config = load_config({}).config
    assert config.alias == ("gpt-4", "llava")
    assert config.accepted_keys() == ("one", "two")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDMLX_PORT", "")
    assert load_config({}).config.port == 8080


def test_sizes_have_units() -> None:
    config = load_config({"memory_limit": "12GiB", "max_body": "1000"}).config
    assert (config.memory_limit, config.max_body) == (12 * 2**30, 1000)


@pytest.mark.parametrize(
    ("text", "number"),
    [("50%", 0.5), ("0.25", 0.25), ("100%", 1), (0, 0), ("0", 0), ("4GiB", 2**32), (3000, 3000)],
)
def test_the_prefix_cache_has_a_size_or_a_share(text: str | int, number: float) -> None:
    assert size_or_share(load_config({"prefix_cache": text}).config.prefix_cache) == number


def test_the_prefill_chunk_is_auto_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'prefill_chunk = "auto"  # default' in to_toml(load_config({}))
    for chunk in (40, "40"):
        assert Config.of(prefill_chunk=chunk).prefill_chunk == 40
    monkeypatch.setenv("BUDMLX_PREFILL_CHUNK", "1024")
    assert "prefill_chunk = 1024  # BUDMLX_PREFILL_CHUNK" in to_toml(load_config({}))
    assert load_config({"prefill_chunk": "auto"}).config.prefill_chunk == "auto"
    for wrong in (0, -1, "0", "many", "1.5", 2.0, True, None):
        with pytest.raises(ConfigError, match="prefill_chunk: must be a number of tokens"):
            Config.of(prefill_chunk=wrong)


def test_the_memory_of_all_models_is_auto_or_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config.of().memory_budget == "auto"
    assert Config.of(memory_budget="40GiB").memory_budget == 40 * 2**30
    monkeypatch.setenv("BUDMLX_MEMORY_BUDGET", "3000")
    assert load_config({}).config.memory_budget == 3000
    for wrong in ("lots", 0, "-1", "50%", True, None):
        with pytest.raises(ConfigError, match="memory_budget: must be a size such as 40GiB, or"):
            Config.of(memory_budget=wrong)


@pytest.mark.parametrize("name", ["memory_limit", "max_body", "cache_size", "kv_store_size"])
def test_a_share_is_no_size(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*must be a size such as 40GiB"):
        Config.of(**{name: "50%"})


def test_default_sampling_parameters_are_a_table_or_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path / "c.toml", "[default_sampling]\ntemperature = 1\ntop_k = 40.0\n")
    assert load_config({}, file).config.default_sampling == {"temperature": 1.0, "top_k": 40}
    monkeypatch.setenv("BUDMLX_DEFAULT_SAMPLING", "top_p=0.9, min_p=0")
    assert load_config({}, file).config.default_sampling == {"top_p": 0.9, "min_p": 0}
    loaded = load_config({"default_sampling": ["repetition_penalty=1.1"]}, file)
    assert "default_sampling = {repetition_penalty = 1.1}  # --default-samp" in to_toml(loaded)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"temperature": 3}, "temperature must be between 0 and 2"),
        ({"top_k": "1.5"}, "top_k must be an integer"),
        ({"top_p": True}, "top_p must be a number"),
        ({"top_p": "nan"}, "top_p must be between 0 and 1"),
        ({"max_tokens": 5}, "max_tokens can have no default; temperature, top_p"),
        (["temperature"], "must be of the form NAME=VALUE"),
        (3, "must be a table"),
    ],
)
def test_impossible_default_sampling_parameters_are_refused(value: Any, message: str) -> None:
    assert f"default_sampling (--default-sampling): {message}" in refusal(
        {"default_sampling": value}
    )


ALIASES = """
[aliases]
"claude-*" = "large"
"claude-haiku-*" = "small"
"claude-haiku-4" = "middle"
"a[b]?*" = "odd"
"""


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-opus-4", "large"),
        ("claude-", "large"),
        ("claude-haiku-3", "small"),
        ("claude-haiku-4", "middle"),
        ("Claude-opus-4", None),
        ("my-claude-opus-4", None),
        ("a[b]?c", "odd"),
        ("abxc", None),
        ("claude-*", "large"),
    ],
)
def test_a_name_wins_over_patterns_and_the_longest_of_these(
    tmp_path: Path, name: str, model: str | None
) -> None:
    assert load_config({}, toml(tmp_path / "c.toml", ALIASES)).config.alias_of(name) == model


def test_aliases_are_a_table_or_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = toml(tmp_path / "c.toml", ALIASES)
    assert len(load_config({}, file).config.aliases) == 4
    monkeypatch.setenv("BUDMLX_ALIASES", "gpt-4o=org/large, gpt-*=small")
    assert load_config({}, file).config.aliases == {"gpt-4o": "org/large", "gpt-*": "small"}
    printed = to_toml(load_config({"aliases": ["a b=c=d"]}, file))
    assert 'aliases = {"a b" = "c=d"}  # --aliases' in printed
    assert Config.of(**tomllib.loads(printed)).aliases == {"a b": "c=d"}


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        ({"aliases": ["gpt-4o"]}, "", "aliases (--aliases): must be of the form NAME=VALUE"),
        ({"aliases": ["gpt-4o="]}, "", "aliases (--aliases): must be names, each with the one"),
        ({"aliases": ["a=*"]}, "", "aliases (--aliases): must be names, each with the one"),
        ({}, '[aliases]\na = ["b"]', "aliases (FILE): must be a valid string"),
        ({}, "aliases = 3", "aliases (FILE): must be a table"),
    ],
)
def test_wrong_aliases_are_refused(
    tmp_path: Path, flags: dict[str, Any], text: str, message: str
) -> None:
    file = toml(tmp_path / "c.toml", text)
    assert message in refusal(flags, file).replace(str(file), "FILE")


@pytest.mark.parametrize("text", ["lots", "-1", "-5%", "150%", "nan", "inf", "", "4GiB%"])
def test_other_sizes_are_refused(text: str) -> None:
    message = refusal({"prefix_cache": text})
    assert message.endswith("must be a size such as 4GiB, a share such as 50%, or 0")


def test_a_system_prompt_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDMLX_SYSTEM_PROMPT", "Be kind.\nBe brief.")
    printed = to_toml(load_config({}))
    assert Config.of(**tomllib.loads(printed)).system_prompt == "Be kind.\nBe brief."
    with pytest.raises(ConfigError, match="system_prompt: must be text in Unicode"):
        Config.of(system_prompt="\udcff")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70000}, "port (--port): must be less than or equal to 65535"),
        ({"log_level": "loud"}, "log_level (--log-level): must be 'debug', 'info'"),
        ({"memory_limit": "lots"}, "memory_limit (--memory-limit): could not parse"),
        ({"max_rows": 0}, "max_rows (--max-rows): must be greater than or equal to 1"),
    ],
)
def test_a_wrong_value_names_field_and_place(flags: dict[str, Any], message: str) -> None:
    assert message in refusal(flags)


def test_a_wrong_variable_and_a_wrong_line_name_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path / "c.toml", "prot = 1\nalias = 3\n")
    monkeypatch.setenv("BUDMLX_PORT", "http")
    message = refusal({}, file)
    assert "port (BUDMLX_PORT): must be a valid integer" in message
    assert f"prot ({file}): there is no such setting (did you mean port?)" in message
    assert f"alias ({file}): must be a valid tuple" in message


def test_a_secret_is_in_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = toml(tmp_path / "c.toml", 'api_keys = ["hunter2", 3]')
    assert "hunter2" not in refusal({}, file)
    monkeypatch.setenv("BUDMLX_API_KEYS", "hunter2,hunter3")
    loaded = load_config({}, toml(tmp_path / "d.toml", ""))
    assert "hunter" not in repr(loaded)
    assert "api_keys = 2 not shown  # BUDMLX_API_KEYS" in to_toml(loaded)
    assert "hunter" not in to_toml(loaded)


def test_misspelt_variables_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDMLX_PROT", "1")
    monkeypatch.setenv("BUDMLX_DEBUG", "1")
    assert "BUDMLX_PROT" in load_config({}).unknown_variables
    assert "BUDMLX_DEBUG" not in load_config({}).unknown_variables


def test_keys_come_from_the_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# laptop\none\n\n  two \none\n")
    monkeypatch.setenv("BUDMLX_API_KEYS", "zero")
    assert Config.of(api_key_file=file).accepted_keys() == ("zero", "one", "two")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"# nothing\n", "holds no key"),
        (b"two words\n", "line 1: a key must be one word"),
        ("clé\n".encode(), "line 1: a key must be one word"),
        (b"\xff\n", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_an_unusable_key_file_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        Config.of(api_key_file=file).accepted_keys()
    assert "words" not in caught.value.message


def test_of_refuses_unknown_settings() -> None:
    with pytest.raises(ConfigError, match="port_: there is no such setting"):
        Config.of(port_=1)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    model=st.none() | TEXT,
    alias=st.lists(TEXT).map(tuple),
    port=st.integers(0, 65535),
    drain=st.floats(0, allow_infinity=False),
    strict=st.booleans(),
    aliases=st.dictionaries(TEXT.filter(bool), st.sampled_from(["a", "org/b", '"c"'])),
)
def test_the_printed_configuration_reads_back(
    model: str | None,
    alias: tuple[str, ...],
    port: int,
    drain: float,
    strict: bool,
    aliases: dict[str, str],
) -> None:
    config = Config.of(
        model=model, alias=alias, port=port, drain_seconds=drain, strict=strict, aliases=aliases
    )
    printed = tomllib.loads(to_toml(LoadedConfig(config, {})))
    assert Config.of(**printed) == config


class PluginOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = ""


def test_a_misspelt_setting_of_a_plugin_is_compared_with_the_plugins_own() -> None:
    config = Config.of(plugin_option=("mine.pth=x", "other.prt=y"))
    with pytest.raises(ConfigError, match=r"pth: there is no such setting \(did you mean path\?\)"):
        config.options_of("mine", PluginOptions)
