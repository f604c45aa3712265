"""`budmlx show`: all that is known of a model before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import read_config
from budmlx.cli.models import parameters_text, weights_text
from budmlx.cli.terminal import plain_console, printable
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.models.description import ModelDescription, TextFeatures
from budmlx.plugins.manager import Plugins
from budmlx.units import size_text

OPTIONS = config_options(("models_dir", "kv_bits", "speculation", "draft_model"))
Lines = Iterator[tuple[str, str]]


@with_options(OPTIONS)
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that budmlx models lists, or a path.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Show what a model is and how much memory it takes.

    Its weights are not loaded. The settings that the configuration has for the model count.
    """
    loaded = read_config(given(options, OPTIONS), config).for_model(name)
    with closing(Plugins.load(loaded.config)) as plugins:
        model = _find(name, Library.of(loaded.config, plugins), loaded.config.model)
        found = ModelDescription.of(model, loaded.config, plugins)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    console = plain_console()
    console.print(printable(found.model.name))
    _print(console, None, _facts(found))
    if found.text is not None:
        _print(console, "Text", _text(found.text))
    _print(console, "Default sampling parameters", _sampling(found, loaded.places))
    console.print("\nMemory of the weights and the KV of one request, without what is computed")
    console.print(_memory(found))
    for problem in found.problems:
        console.print(printable(f"\n{problem}"), soft_wrap=True)


def _find(name: str, library: Library, configured: str | None) -> LocalModel:
    """The model of a name, of a table of the configuration, or at a path."""
    for each in (name, configured or name):
        if (model := library.lookup(each)) is not None:
            return model
        if (path := Path(each).expanduser()).is_dir():
            return library.at(path)
    return library.find(name)


def _facts(found: ModelDescription) -> Lines:
    model = found.model
    revision = f", revision {model.revision}" if model.revision else ""
    yield "Path", str(model.path)
    yield "Place", f"{model.place}{revision}"
    yield "Size", f"{size_text(model.size)} on disk"
    yield "Kind", model.kind
    yield "Architecture", model.architecture
    yield "Parameters", parameters_text(model.parameters)
    yield "Weights", f"{weights_text(model)}, {size_text(model.weights)}"
    limit = "no limit" if model.context is None else f"{model.context:,} tokens"
    if found.context != model.context:
        limit = f"{found.context:,} tokens, of the model itself {limit}"
    yield "Context", limit
    yield "Speculation", found.speculation or ""
    if (drafter := found.drafter) is not None:
        yield "Draft model", f"{drafter.name}, weights of {size_text(drafter.weights)}"


def _text(text: TextFeatures) -> Lines:
    yield "Chat template", _yes(text.template)
    guess = " (a guess; name it with tool_parser)" if text.guessed else ""
    calls = f"read as {text.tool_format}{guess}" if text.tool_format else "no parser knows them"
    yield "Tools", f"yes, {calls}" if text.tools else "no"
    yield "Reasoning", f"yes, read as {text.reasoning}" if text.reasoning else "no"
    if text.efforts:
        yield "Reasoning effort", ", ".join(text.efforts)
    yield "System role", _yes(text.system)
    yield "Images", _yes(text.images)
    if text.variables:
        yield "Variables", ", ".join(text.variables)
    yield "End tokens", ", ".join(f"{token} ({n})" for n, token in text.end_tokens.items())


def _sampling(found: ModelDescription, places: Mapping[str, str]) -> Lines:
    for name, default in found.sampling.items():
        place: str = default.source
        if place == "config":
            place = places.get("default_sampling", place)
        yield name, f"{default.value!r}  ({place})"


def _memory(found: ModelDescription) -> Table | str:
    if not found.memory:
        return f"  Weights: {size_text(found.weights)}. How much the KV takes, loading tells."
    bits = f"{found.kv_bits} bit " if found.kv_bits else ""
    table = Table("  Tokens", f"{bits}KV", "Together", box=None, pad_edge=False)
    for each in found.memory:
        together = size_text(found.weights + each.kv)
        table.add_row(f"  {each.tokens:,}", size_text(each.kv), together)
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _print(console: Console, title: str | None, lines: Lines) -> None:
    if title is not None:
        console.print(f"\n{title}")
    shown = [(name, value) for name, value in lines if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        console.print(f"  {name:<{width}}  {printable(value)}", soft_wrap=True)
