"""What a model's `generation_config.json` recommends, and what is left of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from budmlx.config import Config
from budmlx.engine.load.generation_config import read_generation_config, sampling_defaults
from budmlx.types import DEFAULTED, SamplingDefault, SamplingParams

QWEN3 = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "transformers_version": "4.51.0",
}
QWEN2 = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
GEMMA3 = {"cache_implementation": "hybrid", "do_sample": True, "top_k": 64, "top_p": 0.95}
OTHERS = {"min_p": 0.05, "typical_p": 0.9, "max_new_tokens": 5, "num_beams": 4, "top_p": None}


def written(directory: Path, entries: Any) -> Path:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (directory / "generation_config.json").write_text(text)
    return directory


@pytest.mark.parametrize("entries", [QWEN3, QWEN2, GEMMA3, OTHERS])
def test_values_are_those_that_transformers_reads(tmp_path: Path, entries: Any) -> None:
    found, problems = read_generation_config(written(tmp_path, entries))
    oracle = GenerationConfig.from_pretrained(tmp_path)
    wanted = {name: getattr(oracle, name, None) for name in DEFAULTED}
    assert found == {name: value for name, value in wanted.items() if value is not None}
    assert found and not problems


def test_penalties_of_other_libraries_are_read_too(tmp_path: Path) -> None:
    entries = {"presence_penalty": 1.5, "frequency_penalty": -0.5, "repetition_window": 64}
    assert read_generation_config(written(tmp_path, entries)) == (entries, [])


def test_no_sampling_is_a_temperature_of_0(tmp_path: Path) -> None:
    entries = {"do_sample": False, "temperature": 0.7, "top_p": 0.9}
    assert read_generation_config(written(tmp_path, entries))[0] == {"temperature": 0, "top_p": 0.9}
    assert read_generation_config(written(tmp_path, {"do_sample": None}))[0] == {}


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"temperature": 3.5}, "temperature must be between 0 and 2"),
        ({"temperature": -1}, "temperature must be between 0 and 2"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1"),
        ({"top_k": 2.5}, "top_k must be an integer"),
        ({"top_k": -1}, "top_k must be between 0 and"),
        ({"min_p": True}, "min_p must be a number"),
        ({"typical_p": "much"}, "typical_p must be a number"),
        ({"repetition_penalty": [1.1]}, "repetition_penalty must be a number"),
        ('{"repetition_penalty": NaN}', "repetition_penalty must be between"),
        ('{"temperature": 1e999}', "temperature must be between"),
        ('{"top_k": Infinity}', "top_k must be an integer"),
        (f'{{"top_k": 1{"0" * 400}}}', "top_k must be an integer"),
        ("{,}", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[1]", "does not hold a JSON object"),
    ],
)
def test_what_cannot_be_used_is_told_and_ignored(
    tmp_path: Path, entries: Any, problem: str
) -> None:
    found, problems = read_generation_config(written(tmp_path, entries))
    assert not found
    assert len(problems) == 1 and problem in problems[0]


def test_one_wrong_value_leaves_the_others(tmp_path: Path) -> None:
    found, problems = read_generation_config(written(tmp_path, {**QWEN3, "top_p": 95}))
    assert found == {"temperature": 0.6, "top_k": 20}
    assert len(problems) == 1


def test_the_configuration_goes_before_the_file_before_what_is_built_in(tmp_path: Path) -> None:
    written(tmp_path, QWEN3)
    config = Config.of(default_sampling={"top_p": 0.5, "min_p": 0.1})
    defaults, _ = sampling_defaults(tmp_path, config)
    assert set(defaults) == set(DEFAULTED)
    assert defaults["temperature"] == SamplingDefault(0.6, "generation_config.json")
    assert defaults["top_p"] == SamplingDefault(0.5, "config")
    assert defaults["min_p"] == SamplingDefault(0.1, "config")
    assert defaults["typical_p"] == SamplingDefault(1.0, "built in")


def test_the_file_can_be_left_out(tmp_path: Path) -> None:
    written(tmp_path, {**QWEN3, "min_p": 7})
    config = Config.of(generation_config=False, default_sampling={"top_k": 3})
    defaults, problems = sampling_defaults(tmp_path, config)
    assert not problems
    neutral = {name: getattr(SamplingParams(), name) for name in DEFAULTED}
    assert {name: each.value for name, each in defaults.items()} == {**neutral, "top_k": 3}
    assert defaults["temperature"].source == "built in"


def test_a_model_without_the_file_has_what_is_built_in(tmp_path: Path) -> None:
    defaults, problems = sampling_defaults(tmp_path, Config.of())
    assert not problems
    assert {each.source for each in defaults.values()} == {"built in"}
