"""`budmlx keys`: API keys with names, which a running server takes at once, and their use."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from budmlx.cli.flags import CONFIG_OPTION
from budmlx.cli.load_model import read_config
from budmlx.cli.running_server import RunningServer
from budmlx.cli.terminal import plain_console
from budmlx.config.key_file import add_record, new_key, remove_record
from budmlx.config.keys import ApiKey, check_name, digest_of, parsed, text_of
from budmlx.config.values import key_file_path
from budmlx.errors import BudmlxError
from budmlx.server.ledger import DAYS_KEPT

DURATION = re.compile(r"([1-9][0-9]{0,5})(m|h|d|w)")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


Expires = Annotated[
    str | None,
    typer.Option(
        help="Last day of the new key, as 2027-01-31, or how long it lasts: 90m, 12h, 30d, 2w.",
        metavar="TEXT",
    ),
]
Rpm = Annotated[
    int | None,
    typer.Option(min=1, help="Most requests of the new key per minute.", metavar="N"),
]
TokensPerDay = Annotated[
    int | None,
    typer.Option(
        min=1, help="Most tokens of prompts and replies of the new key per day, UTC.", metavar="N"
    ),
]
AllowedModels = Annotated[
    str | None,
    typer.Option(
        help="Models that the new key may use, separated by commas; else all.", metavar="TEXT"
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        help="File with the keys, in place of that of the configuration, or auto, which is "
        "~/.local/state/budmlx/keys, on a Mac ~/Library/Application Support/budmlx/keys.",
        metavar="FILE",
    ),
]


def keys(
    action: Annotated[
        Literal["list", "add", "revoke", "usage"], typer.Argument(help="What to do.")
    ] = "list",
    name: Annotated[
        str | None, typer.Argument(help="Name of the key, such as that of its owner.")
    ] = None,
    rpm: Rpm = None,
    tokens_per_day: TokensPerDay = None,
    models: AllowedModels = None,
    expires: Expires = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="The new key may load and delete models, too.")
    ] = False,
    background: Annotated[
        bool,
        typer.Option(
            "--background", help="What the new key asks for runs on what other requests leave."
        ),
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=DAYS_KEPT, help="How many days usage shows.", metavar="N")
    ] = 1,
    api_key_file: File = None,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
) -> None:
    """List, make or revoke API keys, or show what they used.

    `budmlx keys add NAME` prints a new key once; the file has only its SHA-256. A server with
    this file takes the key at once, and refuses one from its next request on that was revoked.
    `budmlx keys usage` asks the running server; it shows all keys to an admin key.
    """
    settings = read_config({"api_key_file": api_key_file}, config).config
    file = settings.api_key_file or key_file_path()
    if action in ("list", "usage"):
        if name is not None:
            raise BudmlxError("NAME goes with add and revoke.")
        if action == "list":
            _list(file)
        else:
            _show_usage(RunningServer.find(config), days)
        return
    if name is None:
        raise BudmlxError(f"A name is missing: budmlx keys {action} NAME.")
    if action == "revoke":
        remove_record(file, name)
        typer.echo(f"Revoked the key of {name}.")
        return
    check_name(name)
    key = new_key()
    until = None if expires is None else _until(expires, datetime.now(UTC))
    digest, names = digest_of(key).hex(), _names(models)
    key_record = ApiKey(name, digest, admin, rpm, tokens_per_day, names, until, background)
    add_record(file, key_record)
    typer.echo(key)
    ends = f" It ends at {_time(until)}." if until else ""
    typer.echo(f"This is the key of {name}, shown only now.{ends}", err=True)
    if settings.api_key_file is None:
        typer.echo("Serve with: budmlx serve --api-key-file auto", err=True)


def _names(text: str | None) -> tuple[str, ...]:
    """Names of models that are separated by commas. Raises BudmlxError."""
    names = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and not names:
        raise BudmlxError("--models names no model.")
    return names


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
    titles = ("Key", "Rights", "Per minute", "Tokens per day", "Models", "Ends")
    table = Table(*titles, box=None, pad_edge=False)
    for each in file.records:
        ends = f"ended {_time(each.expires)}" if each.expired() else _time(each.expires)
        rights = " ".join(
            word for word, has in (("admin", each.admin), ("background", each.background)) if has
        )
        models = escape(", ".join(each.models)) or "all"
        limits = ("" if limit is None else str(limit) for limit in (each.rpm, each.tokens_per_day))
        table.add_row(each.name, rights, *limits, models, ends)
    console = plain_console()
    if file.records:
        console.print(table)
    others = f", {len(file.plain)} without names" if file.plain else ""
    console.print(f"Keys in {path}: {len(file.records)}{others}", soft_wrap=True)


def _show_usage(server: RunningServer, days: int) -> None:
    answer = server.usage(days)
    titles = ("Key", "Day", "Requests", "Prompts", "Replies", "Tokens")
    table = Table(*titles, box=None, pad_edge=False)
    fields = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")
    for each in answer["data"]:
        table.add_row(each["key"], each["day"], *(str(each[name]) for name in fields))
    console = plain_console()
    console.print(table if answer["data"] else "No key was used.")
    for each in answer["quotas"]:
        if each["tokens_per_day"] is not None:
            left, limit = each["remaining"], each["tokens_per_day"]
            console.print(f"{each['key']}: {left} of {limit} tokens are left", soft_wrap=True)
    console.print(f"The day ends at {answer['resets_at']}.", soft_wrap=True)


def _time(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M") if when else "never"
