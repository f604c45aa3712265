"""Options generated from the fields of `ModelConfig`, `ServerConfig` and `SamplingParams`.

A field is declared once: its type, default and description become the option's.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ByteSize, SecretStr

from budmlx.cli.debug_option import DEBUG_OPTION
from budmlx.config import ModelConfig, ServerConfig
from budmlx.types import PARAMETERS, SamplingParams

Command = Callable[..., None]

SCALARS = (bool, int, float, str, Path)
METAVARS = {
    int: "N",
    float: "X",
    str: "TEXT",
    Path: "FILE",
    list[str]: "TEXT",
    list[int]: "N",
}
CONFIG_PARTS: dict[str, type[BaseModel]] = {
    "Settings of the model": ModelConfig,
    "Settings of the server": ServerConfig,
}
"""The parts of the configuration, by the headings of their options."""
CONFIG_OPTION = typer.Option("--config", help="TOML file with settings.", metavar="FILE")


def with_options(parameters: Iterable[Parameter]) -> Callable[[Command], Command]:
    """Replace a command's `**options` with generated parameters, for typer to read."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        own = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own]
        generated = [*parameters, _parameter("debug", bool, DEBUG_OPTION, False)]
        command.__signature__ = signature.replace(parameters=[*own, *generated])  # type: ignore[attr-defined]
        return command

    return decorate


def config_options(names: Iterable[str] | None = None) -> list[Parameter]:
    """One option per setting; None, the default of each, means that it was not given.

    Secrets get none, since other users of a machine can read a command line, and tables get
    none. The model is an argument of the commands. names: only these fields.
    """
    chosen = None if names is None else set(names)
    return [
        option(name, field.annotation, field.description or "", field.default, panel)
        for panel, part in CONFIG_PARTS.items()
        for name, field in part.model_fields.items()
        if has_flag(name, field.annotation) and (chosen is None or name in chosen)
    ]


def has_flag(name: str, annotation: Any) -> bool:
    """Whether a setting has an option: not the model, an argument, and no secret."""
    return name != "model" and not _is_secret(annotation)


def sampling_options() -> list[Parameter]:
    """One option per field of `SamplingParams` that a flag can express.

    There is none for logprobs: they would have to be shown somewhere.
    """
    hints = typing.get_type_hints(SamplingParams)
    return [
        option(field.name, hints[field.name], PARAMETERS[field.name].sentence, field.default)
        for field in fields(SamplingParams)
        if field.name != "logprobs" and _flag_type(hints[field.name]) is not None
    ]


def option(
    name: str, annotation: Any, description: str, default: Any, panel: str | None = None
) -> Parameter:
    """A typer option that is None when not given; its help shows the default.

    panel: the heading under which the help lists it.
    """
    kind = _flag_type(annotation)
    if kind is None:
        raise TypeError(f"no option can express {name}: {annotation}")
    if typing.get_origin(kind) is list:
        description += " May be repeated."
    if default not in (None, (), False):
        description += f" [default: {shown_default(default)}]"
    description = description[:1].upper() + description[1:]
    metavar = METAVARS.get(kind)
    info = typer.Option(
        help=description, metavar=metavar, show_default=False, rich_help_panel=panel
    )
    return _parameter(name, kind | None, info, None)


def shown_default(default: Any) -> str:
    """A default as users write it."""
    return default.human_readable() if isinstance(default, ByteSize) else str(default)


def given(options: Mapping[str, Any], names: Iterable[Parameter]) -> dict[str, Any]:
    """The options among `names` that were given."""
    wanted = {parameter.name for parameter in names}
    return {
        name: value for name, value in options.items() if name in wanted and value not in (None, [])
    }


def _parameter(name: str, kind: Any, info: Any, default: Any) -> Parameter:
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _flag_type(annotation: Any) -> Any:
    """The type for typer to parse; None when it cannot."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        if any(typing.get_origin(argument) is Literal for argument in inner):
            return str
        return _flag_type(inner[0]) if len(inner) == 1 else None
    if origin is Annotated:
        return _flag_type(arguments[0])
    if origin is Mapping:
        return list[str]  # NAME=VALUE
    if origin is tuple and len(arguments) == 2 and arguments[0] in SCALARS:
        return list[arguments[0]]  # type: ignore[valid-type]
    if origin is Literal or annotation in SCALARS:
        return annotation
    return str if annotation is ByteSize else None


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, typing.get_args(annotation)))
