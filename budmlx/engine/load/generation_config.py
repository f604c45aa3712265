"""Default sampling parameters of a model, from its directory and from the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from budmlx.config import ModelConfig
from budmlx.errors import InvalidRequestError
from budmlx.types import BUILT_IN, DEFAULTED, SamplingDefault, default_value

FILE: Final = "generation_config.json"


def read_generation_config(directory: Path) -> tuple[dict[str, float], list[str]]:
    """The sampling parameters that a model's directory recommends, and what is wrong with others.

    `"do_sample": false` is a temperature of 0. Entries that are no sampling parameters, such as
    `max_new_tokens` and those of other ways to decode, are not taken. Unusable values are not,
    either; each of them has a sentence.
    """
    try:
        entries = json.loads((directory / FILE).read_bytes())
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, RecursionError):
        return {}, [f"{FILE} cannot be read."]
    if not isinstance(entries, dict):
        return {}, [f"{FILE} does not hold a JSON object."]
    found, problems = {}, []
    for name in DEFAULTED:
        if entries.get(name) is None:
            continue
        try:
            found[name] = default_value(name, entries[name])
        except InvalidRequestError as error:
            problems.append(f"{FILE}: {error.message} What it says is ignored.")
    if entries.get("do_sample") is False:
        found["temperature"] = 0.0
    return found, problems


def sampling_defaults(
    directory: Path | None, config: ModelConfig
) -> tuple[dict[str, SamplingDefault], list[str]]:
    """The default of every parameter in `DEFAULTED` for the model in a directory.

    directory: None if it is not known. config: with the settings of this model in place. The
    second value has a sentence for each value in the directory that cannot be used.
    """
    found: dict[str, float] = {}
    problems: list[str] = []
    if config.generation_config and directory is not None:
        found, problems = read_generation_config(directory)
    defaults = {name: SamplingDefault(getattr(BUILT_IN, name)) for name in DEFAULTED}
    defaults |= {name: SamplingDefault(value, FILE) for name, value in found.items()}
    chosen = config.default_sampling.items()
    return defaults | {name: SamplingDefault(value, "config") for name, value in chosen}, problems


def changed(defaults: Mapping[str, SamplingDefault]) -> dict[str, float]:
    """The defaults that are not built in."""
    return {name: each.value for name, each in defaults.items() if each.source != "built in"}
