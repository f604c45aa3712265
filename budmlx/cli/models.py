"""`budmlx models`: the models on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import open_library, read_config
from budmlx.cli.terminal import plain_console, printable
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.units import size_text

OPTIONS = config_options(("models_dir",))
EXAMPLE = "mlx-community/Qwen3-4B-4bit"
COLUMNS = ("Model", "Size", "Parameters", "Weights", "Context", "Kind", "Place")


@with_options(OPTIONS)
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """List the models on this machine.

    They are looked for in every --models-dir, in the cache of the Hugging Face hub and in LM
    Studio's folders. Of those that cannot be served it says why.
    """
    library = open_library(read_config(given(options, OPTIONS), config).config)
    found = library.models()
    if as_json:
        typer.echo(json.dumps([model.as_json() for model in found], indent=2))
        return
    console = plain_console()
    if any(model.servable for model in found):
        console.print(_table(found))
    else:
        console.print("There is no model that can be served. Fetch one, for example:")
        console.print(f"  budmlx pull {EXAMPLE}")
    for model in found:
        if not model.servable:
            console.print(printable(f"Not served: {model.problem}"), soft_wrap=True)


def _table(found: list[LocalModel]) -> Table:
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for model in found:
        if model.servable:
            context = f"{model.context:,}" if model.context else "no limit"
            table.add_row(
                printable(model.name),
                size_text(model.size),
                parameters_text(model.parameters),
                weights_text(model),
                context,
                model.kind,
                model.place,
            )
    return table


def parameters_text(count: int | None) -> str:
    """A number of parameters for readers, such as `4.0 B`."""
    if count is None:
        return ""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def weights_text(model: LocalModel) -> str:
    """How the weights are kept: `4 bit`, or their dtype."""
    return str(model.quantization) if model.quantization else model.dtype
