"""`budmlx cache`: lists and clears the KV that `--kv-store` keeps on disk."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ByteSize
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.load_model import read_config
from budmlx.cli.terminal import plain_console
from budmlx.config import kv_directory
from budmlx.errors import BudmlxError

# Names that the core gives; nothing else in the directory is shown or removed.
FOLDER = re.compile(r"(?P<model>.+)-(?P<identity>[0-9a-f]{16})")
FILE = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.tmp|\.safetensors|\.bad)")


@dataclass(frozen=True, slots=True)
class ModelKV:
    """The files of one model, as it was at one time. used: seconds since the epoch."""

    model: str
    folder: Path
    files: tuple[Path, ...]
    damaged: int
    nbytes: int
    used: float


def cache(
    action: Annotated[Literal["list", "clear"], typer.Argument(help="What to do.")] = "list",
    model: Annotated[
        str | None, typer.Argument(help="Only this model: its name, or the id that list shows.")
    ] = None,
    kv_store: Annotated[
        str | None,
        typer.Option(
            help="Directory, or auto, which is ~/.cache/budmlx/kv, on a Mac "
            "~/Library/Caches/budmlx/kv.",
            metavar="TEXT",
        ),
    ] = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """List or clear the KV of prompts on disk.

    It is kept where --kv-store says, in the configuration or here, else in the directory auto.
    Clearing is safe while servers run: they compute anew what is gone.
    """
    settings = read_config({"kv_store": kv_store}, config).config
    directory = Path(settings.kv_store or kv_directory())
    found = [each for each in _kept(directory) if model in (None, *_names(each))]
    if model is not None and not found:
        raise BudmlxError(f"{directory} holds nothing of {model}. See: budmlx cache list.")
    if action == "list":
        _list(found, directory, int(settings.kv_store_size))
        return
    freed = sum(_clear(each) for each in found)
    typer.echo(f"Removed {_size(freed)} of {directory}.")


def _kept(directory: Path) -> list[ModelKV]:
    """The files of each model, the last used first."""
    found = []
    for folder in _inside(directory):
        if match := FOLDER.fullmatch(folder.name):
            files = tuple(path for path in _inside(folder) if FILE.fullmatch(path.name))
            sizes, times = [0], [0.0]
            for path in files:
                with suppress(OSError):
                    status = path.lstat()
                    sizes.append(status.st_size)
                    times.append(status.st_mtime)
            damaged = sum(path.suffix == ".bad" for path in files)
            found.append(ModelKV(match["model"], folder, files, damaged, sum(sizes), max(times)))
    return sorted(found, key=lambda each: each.used, reverse=True)


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BudmlxError(f"Cannot read {directory}: {error.strerror}.") from error


def _names(kept: ModelKV) -> tuple[str, str, str]:
    return kept.model, kept.model.replace("--", "/"), kept.folder.name


def _list(found: list[ModelKV], directory: Path, limit: int) -> None:
    table = Table("Model", "Id", "Blocks", "Size", "Last used", box=None, pad_edge=False)
    for each in found:
        blocks = str(len(each.files) - each.damaged)
        if each.damaged:
            blocks += f" and {each.damaged} damaged"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)) if each.files else "never"
        model = each.model.replace("--", "/")
        table.add_row(model, each.folder.name, blocks, _size(each.nbytes), used)
    console = plain_console()
    if found:
        console.print(table)
    total = sum(each.nbytes for each in found)
    console.print(f"{_size(total)} of at most {_size(limit)} in {directory}", soft_wrap=True)


def _clear(kept: ModelKV) -> int:
    """Remove the files of a model; returns the bytes that they had."""
    for path in kept.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise BudmlxError(f"Cannot remove {path}: {error.strerror}.") from error
    with suppress(OSError):  # a server writes there just now
        kept.folder.rmdir()
    return kept.nbytes


def _size(nbytes: int) -> str:
    return ByteSize(nbytes).human_readable(separator=" ")
