"""`budmlx batch`: the requests of a file, answered without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import ENGINE_FIELDS, open_engine

ENGINE_OPTIONS = config_options((*ENGINE_FIELDS, "max_rows", "embed_any"))


@with_options(ENGINE_OPTIONS)
def batch(
    action: Annotated[Literal["run"], typer.Argument(help="What to do.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="Requests, one in each line, as OpenAI's batches have them: custom_id, method, "
            "url, body."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Where the replies go, one in each line; requests with a reply there are done.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Directory or hub repository. It answers to every name in the file.",
        ),
    ] = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Answer the requests of a file.

    After a break the same command goes on where it was. Requests that fail have a status of 400
    or more in their replies.
    """
    console = Console(stderr=True)
    columns = (TextColumn("Answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        open_engine(model, config, given(options, ENGINE_OPTIONS)) as engine,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("")

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        counts = engine.batch(file, output, progress=tell)
    console.print(f"{counts.completed} of {counts.total} answered, {counts.failed} failed.")
