"""`budmlx keys`: API keys with names, which a running server takes at once."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.load_model import read_config
from budmlx.cli.terminal import plain_console
from budmlx.config.key_file import add_record, new_key, remove_record
from budmlx.config.keys import ApiKey, check_name, digest_of, parsed, text_of
from budmlx.config.values import key_file_path
from budmlx.errors import BudmlxError

DURATION = re.compile(r"([1-9][0-9]{0,5})(m|h|d|w)")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def keys(
    action: Annotated[
        Literal["list", "add", "revoke"], typer.Argument(help="What to do.")
    ] = "list",
    name: Annotated[
        str | None, typer.Argument(help="Name of the key, such as that of its owner.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="Last day of the new key, such as 2027-01-31, or how long it lasts: 90m, 12h, "
            "30d, 2w.",
            metavar="TEXT",
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="The new key may load and delete models, too.")
    ] = False,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the keys, in place of that of the configuration, or auto, which is "
            "~/.local/state/budmlx/keys, on a Mac ~/Library/Application Support/budmlx/keys.",
            metavar="FILE",
        ),
    ] = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """List, make or revoke API keys.

    `budmlx keys add NAME` prints a new key once; the file has only its SHA-256. A server with
    this file takes the key at once, and refuses one from its next request on that was revoked.
    """
    settings = read_config({"api_key_file": api_key_file}, config).config
    file = settings.api_key_file or key_file_path()
    if action == "list":
        if name is not None:
            raise BudmlxError("NAME goes with add and revoke.")
        _list(file)
        return
    if name is None:
        raise BudmlxError(f"A name is missing: budmlx keys {action} NAME.")
    if action == "revoke":
        remove_record(file, name)
        typer.echo(f"Revoked the key of {name}.")
        return
    check_name(name)
    until = None if expires is None else _until(expires, datetime.now(UTC))
    key = new_key()
    add_record(file, ApiKey(name, digest_of(key).hex(), admin=admin, expires=until))
    typer.echo(key)
    ends = f" It ends at {_time(until)}." if until else ""
    typer.echo(f"This is the key of {name}, shown only now.{ends}", err=True)
    if settings.api_key_file is None:
        typer.echo("Serve with: budmlx serve --api-key-file auto", err=True)


def _until(text: str, now: datetime) -> datetime:
    """The end of a day, or of a duration from now. Raises BudmlxError."""
    if match := DURATION.fullmatch(text):
        end = now + timedelta(**{UNITS[match[2]]: int(match[1])})
        return end.replace(microsecond=0)
    try:
        end = datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
    except (ValueError, OverflowError):
        raise BudmlxError(
            f"--expires is {text[:100]!r}: it is a day such as 2027-01-31, or how long the key "
            "lasts, such as 30d."
        ) from None
    if end <= now:
        raise BudmlxError(f"--expires is {text}, which is over.")
    return end


def _list(path: Path) -> None:
    if not path.expanduser().exists():
        raise BudmlxError(f"There is no file {path}. Make a key with: budmlx keys add NAME.")
    file = parsed(text_of(path))
    table = Table("Key", "Rights", "Ends", box=None, pad_edge=False)
    for each in file.records:
        ends = f"ended {_time(each.expires)}" if each.expired() else _time(each.expires)
        table.add_row(each.name, "admin" if each.admin else "", ends)
    console = plain_console()
    if file.records:
        console.print(table)
    others = f", {len(file.plain)} without names" if file.plain else ""
    console.print(f"Keys in {path}: {len(file.records)}{others}", soft_wrap=True)


def _time(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M") if when else "never"
