"""`budmlx rm`: removes a model from the hub's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import open_library, read_config
from budmlx.engine.load.library.removal import Removal
from budmlx.units import size_text

OPTIONS = config_options(("models_dir",))


@with_options(OPTIONS)
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that budmlx models lists.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Remove a model from the hub's cache.

    All of its revisions go. Models in LM Studio's folders and in --models-dir are never removed.
    """
    library = open_library(read_config(given(options, OPTIONS), config).config)
    removal = Removal.of(library, name)
    revisions = f"{removal.revisions} revision{'' if removal.revisions == 1 else 's'}"
    typer.echo(f"{removal.folder}: {size_text(removal.freed)}, {revisions}")
    if not yes:
        typer.confirm(f"Remove {name}?", abort=True)
    removal.execute()
    typer.echo(f"Removed {name}: {size_text(removal.freed)} are free again.")
