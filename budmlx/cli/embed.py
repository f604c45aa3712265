"""`budmlx embed`: the vectors of the lines of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, with_options
from budmlx.cli.load_model import ENGINE_FIELDS, open_engine
from budmlx.engine.embed.embeddings import MOST_TEXTS
from budmlx.engine.engine import Engine
from budmlx.errors import BudmlxError, InvalidRequestError

OWN_FIELDS = ("pooling", "embed_any")
ENGINE_OPTIONS = config_options((*ENGINE_FIELDS, *OWN_FIELDS))


@with_options(ENGINE_OPTIONS)
def embed(
    file: Annotated[
        str,
        typer.Argument(
            help="Texts, one in each line; lines of a .jsonl file are JSON texts, or objects with "
            "a `text`. The file - is standard input.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Directory or hub repository.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the vectors go: a .npy file gets float32 [texts, dimensions], any other "
            "one JSON list in each line; standard output without it.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Cut vectors to so many numbers.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="The model's own prompt that goes before each text.")
    ] = None,
    truncate: Annotated[bool, typer.Option(help="Cut texts that are too long.")] = False,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Write the vectors of the lines of a file.

    The model is one for embeddings, or with --embed-any a chat model.
    """
    texts = read_texts(file)
    request = {"dimensions": dimensions, "prompt_name": prompt_name, "truncate": truncate}
    with open_engine(model, config, given(options, ENGINE_OPTIONS)) as engine:
        vectors = embedded(engine, texts, request)
    if output is None:
        _write_lines(sys.stdout, vectors)
    elif output.suffix == ".npy":
        np.save(output, vectors)
    else:
        with output.open("w", encoding="utf-8") as out:
            _write_lines(out, vectors)


def read_texts(file: str) -> list[str]:
    """The texts in a file. Raises InvalidRequestError, BudmlxError."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BudmlxError(f"{file} cannot be read: {error}") from error
    if not file.endswith(".jsonl"):
        texts = lines
    else:
        texts = [_text(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]
    if not texts:
        raise InvalidRequestError(f"{file} has no lines.")
    return texts


def embedded(engine: Engine, texts: Sequence[str], request: dict[str, Any]) -> Any:
    """The vectors [texts, dimensions], with a bar of progress where there are several requests."""
    many = len(texts) > 1 and sys.stderr.isatty()
    parts = []
    for begin in range(0, len(texts), MOST_TEXTS):
        part = texts[begin : begin + MOST_TEXTS]
        try:
            found = engine.embed(part, progress=many, **request)
        except InvalidRequestError as error:
            raise _of_line(error, begin) from error
        for warning in found.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        parts.append(found.vectors)
    return np.concatenate(parts)


def _text(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidRequestError(f"{place} is not JSON: {error}.") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidRequestError(f"{place} is neither a text nor an object with a `text`.")
    return text


def _of_line(error: InvalidRequestError, begin: int) -> InvalidRequestError:
    """The error in terms of the file: texts are counted from 0 in each request."""
    name, _, rest = (error.param or "").partition("[")
    if name != "input" or not rest:
        return error
    line = begin + int(rest.partition("]")[0]) + 1
    return InvalidRequestError(error.message.replace(f"`{error.param}`", f"Line {line}"))


def _write_lines(out: Any, vectors: Any) -> None:
    for vector in vectors:
        print(json.dumps([float(f"{value:.9g}") for value in vector]), file=out)
