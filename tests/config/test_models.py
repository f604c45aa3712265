"""`[models.NAME]`: which table is for which model, what wins over it, and what a wrong one says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.show_config import to_toml
from budmlx.config import Config, ModelConfig, ServerConfig
from budmlx.config.sources import LoadedConfig, load_config
from budmlx.engine.engine import Engine
from budmlx.engine.load.hub import SHIPPED_MODEL
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError
from budmlx.server.app import create_app
from budmlx.server.state import IN_FLIGHT
from tests.models import tiny_model_dir

TWO = """
kv_bits = 8
max_rows = 3

[models."org/large"]
alias = ["gpt-4o"]
memory_limit = "12GiB"
kv_bits = 4

[models.small]
model = "org/small-4bit"
tool_parser = "hermes"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the user who runs the tests."""
    for name in [*Config.model_fields, "config"]:
        monkeypatch.delenv(f"BUDMLX_{name.upper()}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def read(path: Path, text: str, **flags: Any) -> Config:
    (path / "c.toml").write_text(text)
    return load_config(flags, path / "c.toml").config


def refusal(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, text)
    return caught.value.message.replace(str(path / "c.toml"), "FILE")


def test_every_setting_is_the_models_or_the_servers() -> None:
    model, server = set(ModelConfig.model_fields), set(ServerConfig.model_fields)
    assert not model & server
    assert set(Config.model_fields) == model | server | {"models"}


def test_a_table_wins_over_the_settings_for_all_models(tmp_path: Path) -> None:
    config = read(tmp_path, TWO)
    large = config.for_model("org/large")
    assert (large.model, large.alias, large.kv_bits) == ("org/large", ("gpt-4o",), 4)
    assert (large.memory_limit, large.max_rows, large.tool_parser) == (12 * 2**30, 3, "auto")
    small = config.for_model("small")
    assert (small.model, small.alias, small.kv_bits) == ("org/small-4bit", ("small",), 8)
    assert (small.memory_limit, small.max_rows, small.tool_parser) == (None, 3, "hermes")
    assert not large.models and not small.models


@pytest.mark.parametrize(
    ("called", "model"),
    [
        ("org/large", "org/large"),
        ("gpt-4o", "org/large"),
        ("small", "org/small-4bit"),
        ("org/small-4bit", "org/small-4bit"),
    ],
)
def test_a_model_is_found_by_its_names_and_by_where_it_is(
    tmp_path: Path, called: str, model: str
) -> None:
    config = read(tmp_path, TWO)
    assert config.for_model(called).model == model
    assert config.for_model(called).kv_bits == (4 if model == "org/large" else 8)
    assert read(tmp_path, TWO, model=called).for_model() == config.for_model(called)


def test_a_directory_is_found_by_any_path_to_it_and_by_its_last_part(tmp_path: Path) -> None:
    place = tmp_path / "tiny"
    place.mkdir()
    for table in (f'models."{place}"', "models.tiny"):
        config = Config.of(**tomllib.loads(f"[{table}]\nkv_bits = 4"))
        found = config.for_model(f"{tmp_path}/tiny/../tiny/")
        assert (found.kv_bits, Path(str(found.model)).resolve()) == (4, place)
    elsewhere = Config.of(models={"tiny": {"model": "org/tiny", "kv_bits": 4}})
    assert elsewhere.for_model(str(place)).kv_bits is None


def test_a_model_without_a_table_has_the_settings_for_all(tmp_path: Path) -> None:
    other = read(tmp_path, TWO).for_model("org/other")
    assert (other.model, other.kv_bits, other.max_rows, other.alias) == ("org/other", 8, 3, ())


def test_without_tables_nothing_changes() -> None:
    config = Config.of(model="a", alias=("b",), kv_bits=8, port=1)
    assert config.for_model() == config
    assert Config.of().for_model().model is None


def test_the_only_table_names_the_model_that_is_served(tmp_path: Path) -> None:
    assert read(tmp_path, '[models."org/a"]\nkv_bits = 8').for_model().model == "org/a"


def test_of_several_tables_one_must_be_chosen(tmp_path: Path) -> None:
    config = read(tmp_path, TWO)
    with pytest.raises(ConfigError, match=r"Several models are configured \(org/large, small\)"):
        config.for_model()
    twice = read(tmp_path, '[models.a]\nmodel = "x"\n[models."b c"]\nmodel = "x"\nkv_bits = 8')
    assert twice.for_model("b c").kv_bits == 8
    with pytest.raises(ConfigError, match=r'models.a and models."b c" are both for x'):
        twice.for_model("x")


def test_flags_and_variables_win_over_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUDMLX_TOOL_PARSER", "none")
    config = read(tmp_path, TWO, kv_bits=8, model="small", alias=["mine"])
    assert (config.for_model().tool_parser, config.for_model().alias) == ("none", ("small", "mine"))
    large = config.for_model("org/large")
    assert (large.kv_bits, large.memory_limit) == (8, 12 * 2**30)


def test_what_is_of_one_model_is_not_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUDMLX_SESSION", "book")
    text = TWO + 'revision = "v1"\n'
    config = read(tmp_path, text, model="small", alias=["mine"], revision="v2")
    small = config.for_model()
    assert (small.alias, small.revision, small.session) == (("small", "mine"), "v2", ("book",))
    assert config.for_model("org/small-4bit") == config.for_model("small") == small
    large = config.for_model("gpt-4o")
    assert (large.alias, large.revision, large.session) == (("gpt-4o",), None, ())
    other = config.for_model("org/other")
    assert (other.alias, other.revision, other.session) == ((), None, ())
    # Nothing says of which of two models a flag is.
    large = read(tmp_path, text, alias=["mine"]).for_model("org/large")
    assert large.alias == ("gpt-4o",)


def test_a_directory_keeps_what_is_of_one_model_by_any_path_to_it(tmp_path: Path) -> None:
    config = Config.of(model=str(tmp_path), alias=("mine",))
    assert config.for_model(f"{tmp_path}/.").alias == ("mine",)
    assert config.for_model(str(tmp_path.parent)).alias == ()


def test_places_are_known_of_each_models_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUDMLX_MAX_ROWS", "5")
    file = tmp_path / "c.toml"
    file.write_text(TWO + "idle_unload = 60\n")
    loaded = load_config({"kv_bits": 8, "model": "small", "alias": ["mine"]}, file)
    small, table = loaded.for_model(), f"{file} [models.small]"
    assert small.config == loaded.config.for_model("small")
    assert small.places == {
        "model": table,
        "tool_parser": table,
        "idle_unload": table,
        "kv_bits": "--kv-bits",
        "max_rows": "BUDMLX_MAX_ROWS",
        "alias": "--alias",
    }
    large = loaded.for_model("org/large")
    assert large.config.kv_bits == 8
    assert large.places == {
        "memory_limit": f'{file} [models."org/large"]',
        "alias": f'{file} [models."org/large"]',
        "kv_bits": "--kv-bits",
        "max_rows": "BUDMLX_MAX_ROWS",
    }
    assert f"idle_unload = 60.0  # {file} [models.small]" in to_toml(small)


def test_tables_have_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDMLX_MODELS", '{"a": {"kv_bits": 8}}')
    loaded = load_config({})
    assert not loaded.config.models
    assert loaded.unknown_variables == ("BUDMLX_MODELS",)
    assert not Config.of().models


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[models."org/name"]\nkvbits = 8',
            'models."org/name".kvbits (FILE): there is no such setting (did you mean kv_bits?)',
        ),
        (
            '[models."org/name"]\nkv_bits = 5',
            'models."org/name".kv_bits (FILE): must be a multiple of 4',
        ),
        (
            "[models.a]\nport = 1",
            "models.a.port (FILE): is the server's, not a model's; it stands before the tables",
        ),
        ("[models.a]\nmodels = 1", "models.a.models (FILE): there is no such setting"),
        ("[models]\na = 3", "models.a (FILE): must be a table"),
        ("models = 3", "models (FILE): must be a table"),
        ("[[models]]\nkv_bits = 8", "models (FILE): must be a table"),
    ],
)
def test_a_wrong_table_names_table_key_and_file(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_table_that_is_not_served_is_checked_too(tmp_path: Path) -> None:
    assert "models.b.max_rows (FILE)" in refusal(tmp_path, 'model = "a"\n[models.b]\nmax_rows = 0')


def test_a_wrong_key_is_not_hidden_by_a_flag_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[models.a]\nport = 1")
    with pytest.raises(ConfigError, match=r"models\.a\.port"):
        load_config({"port": 2}, tmp_path / "c.toml")


def test_printing_shows_tables_and_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(TWO)
    arguments = ["serve", "gpt-4o", "--kv-bits", "8", "--config", str(file), "--print-config"]
    printed = CliRunner().invoke(app, arguments).output
    assert f'\n[models."org/large"]  # {file}\nalias = ["gpt-4o"]\n' in printed
    assert "kv_bits = 8  # --kv-bits" in printed
    assert "kv_bits = 4" not in printed
    again = Config.of(**tomllib.loads(printed))
    assert (
        again.for_model() == load_config({"model": "gpt-4o", "kv_bits": 8}, file).config.for_model()
    )


def test_printing_shows_default_sampling_parameters_and_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/generation_config.json").write_text('{"top_k": 20, "top_p": 3, "min_p": 0.1}')
    file = tmp_path / "c.toml"
    file.write_text(
        f"""
        [models.one]
        model = "{tmp_path}/here"
        default_sampling = {{temperature = 0.6, min_p = 0.2}}
        [models."org/elsewhere"]
        generation_config = false
        [models."org/unknown"]
        """
    )
    printed = CliRunner().invoke(app, ["serve", "--config", str(file), "--print-config"]).output
    assert Config.of(**tomllib.loads(printed)) == load_config({}, file).config
    shown = printed.split("# Default sampling parameters of ")[1:]
    titles = [part.splitlines()[0] for part in shown]
    assert titles == [f'"{tmp_path}/here"', '"org/elsewhere"', '"org/unknown"']
    one, elsewhere, unknown = shown
    assert f"# temperature = 0.6  # {file} [models.one]" in one
    assert f"# min_p = 0.2  # {file} [models.one]" in one
    assert "# top_k = 20  # generation_config.json" in one
    assert "# top_p = 1.0  # built in" in one
    assert "generation_config.json: top_p must be between 0 and 1" in one
    assert "not here yet" not in one + elsewhere
    assert "# Its generation_config.json is not here yet" in unknown
    arguments = ["serve", "one", "--default-sampling", "top_k=3", "--config", str(file)]
    printed = CliRunner().invoke(app, [*arguments, "--print-config"]).output
    assert "# top_k = 3  # --default-sampling\n# min_p = 0.1  # generation_config.json" in printed
    printed = CliRunner().invoke(app, ["serve", "--print-config"]).output
    assert "# Default sampling parameters of the demo model\n# temperature = 1.0  # bui" in printed


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TABLE = st.fixed_dictionaries(
    {},
    optional={
        "model": TEXT,
        "alias": st.lists(TEXT),
        "revision": TEXT,
        "session": st.lists(TEXT),
        "pin": st.booleans(),
        "default_sampling": st.fixed_dictionaries(
            {}, optional={"top_p": st.floats(0, 1), "top_k": st.integers(0, 9)}
        ),
        "idle_unload": st.floats(0, allow_infinity=False),
        "engine_host": st.sampled_from(["process", "thread"]),
        "memory_limit": st.integers(1, 2**50),
        "wired": st.sampled_from(["weights", "all", "none"]),
        "kv_bits": st.sampled_from([4, 8]),
        "prefix_cache": st.sampled_from(["0", "50%", "4GiB"]),
        "prefix_cache_shared": st.booleans(),
        "max_rows": st.integers(1, 9),
        "watchdog_seconds": st.floats(0, allow_infinity=False, exclude_min=True),
        "tool_parser": TEXT,
        "image_host": st.lists(TEXT),
    },
)


@given(flat=TABLE, tables=st.dictionaries(TEXT, TABLE), port=st.integers(0, 65535))
def test_the_printed_configuration_reads_back(
    flat: dict[str, Any], tables: dict[str, dict[str, Any]], port: int
) -> None:
    config = Config.of(**flat, models=tables, port=port)
    again = Config.of(**tomllib.loads(to_toml(LoadedConfig(config, {}))))
    assert again == config
    # A setting that has its default's value in a table still wins over those for all models.
    assert {name: table.model_fields_set for name, table in again.models.items()} == {
        name: set(table) for name, table in tables.items()
    }


def test_an_engine_runs_with_the_table_of_its_model() -> None:
    model = SHIPPED_MODEL
    with pytest.raises(ConfigError, match="no plugin knows 'nonsense'"):
        Engine.load(model, models={model.name: {"tool_parser": "nonsense"}})
    tables = {"mine": {"model": str(model), "kv_bits": 8}, "other": {"tool_parser": "nonsense"}}
    with Engine.load("mine", models=tables) as engine, Engine.load(model, kv_bits=8) as same:
        assert engine.info.name == model.name
        assert engine.info.fingerprint == same.info.fingerprint
    with Engine.load(model) as other:
        assert engine.info.fingerprint != other.info.fingerprint


def test_a_server_offers_the_model_under_the_names_of_its_table() -> None:
    model = tiny_model_dir()
    tables = {"mine": {"model": str(model), "alias": ["yours"], "engine_host": "thread"}}
    models = Models(Config.of(models=tables))
    try:
        assert models.names == (model.name, "mine", "yours")
    finally:
        models.close()


def test_the_rows_of_the_table_count_for_the_servers_queue() -> None:
    with Engine.load(SHIPPED_MODEL) as engine:
        config = Config.of(models={"a": {"max_rows": 1}}, max_rows=50, max_queue=2)
        assert create_app(Models.of(engine, ()), config)[IN_FLIGHT].limit == 3


def test_commands_load_the_model_of_a_table_with_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[models.mine]\nmodel = "{SHIPPED_MODEL}"\ntool_parser = "nonsense"\n')
    for command in (["serve", "mine"], ["serve"], ["chat", "mine"], ["bench", "mine"], ["bench"]):
        result = CliRunner().invoke(app, [*command, "--config", str(file)])
        assert result.exit_code == 1
        assert "no plugin knows 'nonsense'" in result.stderr


def test_tables_that_are_for_other_models_only_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[models.b]\nkv_bits = 8\n")
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--config", str(file)])
    assert f"no table [models.NAME] is for {tmp_path}, only for b" in " ".join(
        result.stderr.split()
    )
    quiet = CliRunner().invoke(app, ["serve", "b", "--config", str(file)])
    assert "no table" not in quiet.stderr
