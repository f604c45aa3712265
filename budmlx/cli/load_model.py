"""Loading with progress: download bars, then a line until the weights are read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from budmlx.backend import check_backend
from budmlx.config import Config
from budmlx.config.sources import LoadedConfig, load_config
from budmlx.config.tables import table_for
from budmlx.engine.engine import DEMO, Engine
from budmlx.engine.load.hub import find_model
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.pull import downloads_run
from budmlx.plugins.manager import Plugins
from budmlx.progress import Notice
from budmlx.protocol import MemoryBudget
from budmlx.units import size_text

INTERRUPTED = 130
"""The status of a process that Ctrl-C ended."""
ENGINE_FIELDS = ("models_dir", "revision", "memory_limit")
"""The settings that `generate` and `chat` offer as options."""


ADAPTER_OPTION = typer.Option(
    "--adapter",
    metavar="NAME[=DIRECTORY]",
    help="LoRA adapter to use: one of the configuration, or that in a directory.",
)


def read_config(flags: Mapping[str, Any], file: Path | None) -> LoadedConfig:
    """Load the configuration; warns of `BUDMLX_*` variables that nothing reads."""
    loaded = load_config(flags, file)
    for name in loaded.unknown_variables:
        Console(stderr=True).print(f"Warning: {name} is not a setting of budmlx.", markup=False)
    return loaded


def for_served(loaded: LoadedConfig) -> Config:
    """`Config.for_model` for the named model; warns if only other models have tables."""
    warn_of_tables(loaded.config)
    return loaded.config.for_model()


def warn_of_tables(config: Config) -> None:
    """Warn if a model is named, and only other models have tables."""
    if config.models and config.model and table_for(config.models, config.model) is None:
        names = ", ".join(config.models)
        Console(stderr=True).print(
            f"Warning: no table [models.NAME] is for {config.model}, only for {names}.",
            markup=False,
        )


@contextmanager
def ending_downloads() -> Iterator[None]:
    """Context of a download, which Ctrl-C ends together with the process.

    Python would wait for huggingface_hub's threads, and these for the network.
    """
    try:
        yield
    except KeyboardInterrupt:
        if downloads_run():
            Console(stderr=True).print("Aborted. Files that are complete are kept.")
            os._exit(INTERRUPTED)
        raise


@contextmanager
def progress(settings: Config) -> Iterator[Notice]:
    """Show the progress of loading on stderr; the block itself loads, and gets what shows words."""
    console, model = Console(stderr=True), settings.model
    if model is None:
        console.print("This is the small demo model that comes with budmlx.")
    else:
        with ending_downloads():
            find_model(model, settings.revision, models_dirs=settings.models_dir)
    start = time.monotonic()
    title = f"Loading {escape(model or 'the demo model')}"
    with console.status(title) as status:
        yield lambda words: status.update(f"{title}: {escape(words)}")
    console.print(f"Loaded in {time.monotonic() - start:.1f} s.")


def open_library(config: Config) -> Library:
    """The models on this machine, with what plugins can load besides mlx-lm."""
    return Library.of(config, Plugins.load(config))


def memory_line(budget: MemoryBudget) -> str:
    """A sentence about the memory that a model may take."""
    return (
        f"Memory: at most {size_text(budget.limit)}, of which the weights take "
        f"{size_text(budget.weights)} and the prefix cache at most "
        f"{size_text(budget.prefix_cache)}."
    )


def open_engine(
    model: str | None, config: Path | None, flags: Mapping[str, Any], adapter: str = ""
) -> Engine:
    """An engine in this process for a command that talks to it itself.

    model: `DEMO` is the one that comes with budmlx, as for servers, unless there is a directory of
    that name. adapter: what `ADAPTER_OPTION` was given; requests choose `adapter_name` of it.
    """
    own: dict[str, Any] = {"model": model, "engine_host": "thread"}
    if "=" in adapter:
        own["adapter"] = [adapter]
    check_backend()
    settings = for_served(read_config({**flags, **own}, config))
    if model == DEMO and not Path(model).exists():
        settings = settings.model_copy(update={"model": None, "revision": None, "models": {}})
    with progress(settings) as notice:
        return Engine.from_config(settings, notice=notice)


def adapter_name(adapter: str) -> str:
    """The name in NAME=DIRECTORY, or the whole."""
    return adapter.partition("=")[0]
