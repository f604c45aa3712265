"""`budmlx bench`: speed of a model or a running server by number of users."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from budmlx.benchmark.load import (
    Summary,
    chat_body,
    closed_loop,
    edit_prompt,
    random_prompt,
    summarize,
)
from budmlx.benchmark.server_process import ServerProcess, first_model
from budmlx.cli.flags import CONFIG_OPTION, given, sampling_options, with_options
from budmlx.cli.load_model import for_served, progress, read_config
from budmlx.config.sources import LoadedConfig
from budmlx.errors import ConfigError

SAMPLING_OPTIONS = sampling_options()
MAX_TOKENS = 64
# What is measured, and what its requests have in them.
EDITS: Mapping[bool, Mapping[str, Mapping[str, Any]]] = {
    False: {"": {}},
    True: {", no drafts": {"speculation": False}, ", drafts": {}},
}
COLUMNS = ("users", "tokens/s", "TTFT p50", "TTFT p95", "ITL p50", "ITL p95", "")


@with_options(SAMPLING_OPTIONS)
def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model to start a server with; the demo model if neither it nor --url is given.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A running server instead, such as http://127.0.0.1:8080.")
    ] = None,
    users: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Users at once; may be repeated. [default: 1 4 16]"),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each user.")] = 3,
    prompt_words: Annotated[int, typer.Option(min=1, help="Words of each prompt.")] = 40,
    edit: Annotated[
        bool,
        typer.Option(
            "--edit",
            help="Let the prompts ask for a text with one word changed, as coding agents do, once "
            "without drafts and once with those of --speculation.",
        ),
    ] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Measure tokens per second and latencies.

    TTFT is the time to the first token, ITL the time between tokens of one reply, both as a
    client sees them. A server that asks for a key gets the first one of BUDMLX_API_KEYS.
    """
    if url and model:
        raise ConfigError("Give either a model or --url, not both.")
    loaded = read_config({"model": model}, config)
    keys = loaded.config.accepted_keys()
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    sampling = {"max_tokens": MAX_TOKENS, **given(options, SAMPLING_OPTIONS)}
    # The server reads the same settings, so that it finds the same table of the model.
    command = [sys.executable, "-m", "budmlx", "serve", *filter(None, [model])]
    if config is not None:
        command += ["--config", str(config)]
    server = _started(command, loaded, headers) if url is None else _running(url, headers)
    with server as (address, name):
        table = Table(*COLUMNS, title=escape(f"{name} at {address}"))
        for count, (label, more) in itertools.product(users or (1, 4, 16), EDITS[edit].items()):
            make = edit_prompt if edit else random_prompt
            bodies = _bodies(name, count * requests, partial(make, words=prompt_words))
            load = asyncio.run(
                closed_loop(address, [{**b, **sampling, **more} for b in bodies], count, headers)
            )
            table.add_row(*_cells(f"{count}{label}", summarize(load)))
            print(f"{count} users{label} done", file=sys.stderr)
    Console().print(table)


@contextmanager
def _running(url: str, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The address and the model's name of a server that runs already."""
    address = url.rstrip("/").removesuffix("/v1")
    try:
        name = first_model(address, headers)
    except (URLError, OSError, ValueError, LookupError) as error:
        raise ConfigError(f"{address} does not answer /v1/models: {error}.") from error
    yield address, name


@contextmanager
def _started(
    command: Sequence[str], loaded: LoadedConfig, headers: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The address and the model's name of a server that runs as long as the context."""
    settings = for_served(loaded)
    with tempfile.TemporaryDirectory() as directory:
        with progress(settings):
            server = ServerProcess(command, log=Path(directory) / "log", headers=headers)
        with server:
            yield server.url, server.model


def _bodies(model: str, count: int, prompt: Callable[..., str]) -> list[dict[str, Any]]:
    chance = random.Random()
    return [
        chat_body(model, prompt(chance, label=str(index)), MAX_TOKENS) for index in range(count)
    ]


def _cells(users: str, summary: Summary) -> list[str]:
    """One line of the table."""
    if summary.problem:
        return [users, *[""] * 5, escape(summary.problem)]
    times = (summary.ttft_p50, summary.ttft_p95, summary.itl_p50, summary.itl_p95)
    early = f"{summary.early} replies ended early" if summary.early else ""
    cells = [users, f"{summary.tokens_per_second:.1f}"]
    return [*cells, *(f"{1000 * seconds:.0f} ms" for seconds in times), early]
