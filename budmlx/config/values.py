"""Types of settings that need more than pydantic's own: sizes, shares, lists, directories."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, SecretStr, TypeAdapter
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from budmlx.directories import cache_directory

# Browsers leave out the port that a scheme has anyway.
_USUAL = {"http": ":80", "https": ":443"}
_SIZE = TypeAdapter(ByteSize)


def size_or_share(text: str) -> float:
    """Bytes, or a share of at most 1, of a text such as `4GiB`, `50%` or `0`.

    Raises:
        ValueError: the text is none of these.
    """
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.inf
    if 0 <= share <= 1:
        return share
    try:
        if percent or share < 0:
            raise ValueError
        return float(_SIZE.validate_python(text))
    except ValueError as error:
        message = "must be a size such as 4GiB, a share such as 50%, or 0"
        raise PydanticCustomError("size_or_share", message) from error


_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may be called so."""
    return _ADAPTER.fullmatch(name) is not None


def adapter_path(path: str | os.PathLike[str]) -> str:
    """The directory of an adapter, whatever the working directory is."""
    return os.path.abspath(os.path.expanduser(path))


def adapter_paths(given: Iterable[str]) -> dict[str, str]:
    """The directories of adapters by their names. given: each as NAME=DIRECTORY."""
    pairs = (each.partition("=") for each in given)
    return {name: adapter_path(path) for name, _, path in pairs}


def _check_adapters(given: tuple[str, ...]) -> tuple[str, ...]:
    names = [each.partition("=")[0] for each in given if each.partition("=")[2]]
    if len(names) < len(given) or not all(map(is_adapter_name, names)):
        message = "must be NAME=DIRECTORY; a name has letters, digits, dots, dashes, underscores"
        raise PydanticCustomError("adapters", message)
    if len(set(names)) < len(names):
        raise PydanticCustomError("adapters", "must not name two adapters alike")
    return given


def _check_tokens(value: object) -> object:
    if value == "auto":
        return value
    try:
        tokens = int(value) if isinstance(value, int | str) and value is not True else 0
    except ValueError:
        tokens = 0
    if tokens < 1:
        raise PydanticCustomError("tokens", "must be a number of tokens, at least 1, or auto")
    return tokens


def kv_directory(text: str = "auto") -> str:
    """The directory that `kv_store` names; `auto` is one in the user's cache."""
    if text == "auto":
        text = str(cache_directory() / "kv")
    return os.path.abspath(os.path.expanduser(text))


def _check_size(text: str) -> str:
    size_or_share(text)
    return text


def _split_commas(value: object) -> object:
    """A variable of the environment holds a list as one string."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


# A whole scheme only where its hosts are names that nobody can know before.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\*|[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
_WEB = ("http", "https")


def _check_origins(given: tuple[str, ...]) -> tuple[str, ...]:
    origins = tuple(origin.lower().rstrip("/") for origin in given)
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        if match is None or (match["host"] == "*" and match["scheme"] in _WEB):
            message = "must be origins such as http://localhost:3000 or vscode-webview://*"
            raise PydanticCustomError("origins", message)
    return tuple(each.removesuffix(_USUAL.get(each.partition(":")[0], " ")) for each in origins)


SizeOrShare = Annotated[str, BeforeValidator(str), AfterValidator(_check_size)]
AutoTokens = Annotated[int | Literal["auto"], BeforeValidator(_check_tokens)]
KVDirectory = Annotated[str, AfterValidator(kv_directory)]
# NoDecode: without it pydantic-settings wants JSON in the variable.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Adapters = Annotated[Names, AfterValidator(_check_adapters)]
Origins = Annotated[Names, AfterValidator(_check_origins)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_commas)]
