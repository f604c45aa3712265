"""Types of settings that need more than pydantic's own: sizes, shares, lists, directories."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, SecretStr, TypeAdapter
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from budmlx.directories import cache_directory, state_directory
from budmlx.errors import InvalidRequestError
from budmlx.protocol import MOST_DRAFTED
from budmlx.types import default_value

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


def _check_drafts(value: object) -> object:
    if value in ("auto", "off"):
        return value
    # TOML and YAML read `off` as a truth value.
    if value is False or value == "0":
        return "off"
    try:
        tokens = int(value) if isinstance(value, int | str) and value is not True else 0
    except ValueError:
        tokens = 0
    if not 1 <= tokens <= MOST_DRAFTED:
        message = "must be auto, off, or a number of tokens from 1 to {most}"
        raise PydanticCustomError("drafts", message, {"most": MOST_DRAFTED})
    return tokens


def _check_size_unit(value: object) -> object:
    # pydantic overlooks what follows a number, such as %.
    if isinstance(value, str) and value.strip() and not value.strip()[-1].isalnum():
        raise PydanticCustomError("size", "must be a size such as 40GiB")
    return value


def _check_auto_size(value: object) -> object:
    if value == "auto":
        return value
    try:
        size = _SIZE.validate_python(value)
    except ValueError:
        size = ByteSize(0)
    # pydantic overlooks what follows a number, such as %.
    if size < 1 or value is True or not str(value)[-1].isalnum():
        raise PydanticCustomError("auto_size", "must be a size such as 40GiB, or auto")
    return size


def kv_directory(text: str = "auto") -> str:
    """The directory that `kv_store` names; `auto` is one in the user's cache."""
    if text == "auto":
        text = str(cache_directory() / "kv")
    return os.path.abspath(os.path.expanduser(text))


def store_file(text: str) -> str:
    """The file that `store` names; `auto` is one in the user's state directory."""
    if text == "auto":
        text = str(state_directory() / "store.sqlite")
    return os.path.abspath(os.path.expanduser(text))


def files_directory(text: str) -> str:
    """The directory that `files_dir` names; `auto` is one in the user's state directory."""
    if text == "auto":
        text = str(state_directory() / "files")
    return os.path.abspath(os.path.expanduser(text))


def key_file_path(path: Path | str = "auto") -> Path:
    """The file that `api_key_file` names; `auto` is one in the user's state directory."""
    return state_directory() / "keys" if str(path) == "auto" else Path(path)


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in paths)


def _check_size(text: str) -> str:
    size_or_share(text)
    return text


def _split_commas(value: object) -> object:
    """A variable of the environment holds a list as one string."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _pairs(value: object) -> object:
    """The pairs of a flag or variable, NAME=VALUE, as a mapping."""
    entries = _split_commas(value)
    if not isinstance(entries, list | tuple):
        return entries
    pairs = [str(entry).partition("=") for entry in entries]
    if not all(separator for _, separator, _ in pairs):
        raise PydanticCustomError("pairs", "must be of the form NAME=VALUE")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _check_aliases(aliases: Mapping[str, str]) -> Mapping[str, str]:
    if not all(name and model and "*" not in model for name, model in aliases.items()):
        message = "must be names, each with the one model that answers, which has no *"
        raise PydanticCustomError("aliases", message)
    return aliases


def _check_prompt(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("prompt", "must be text in Unicode") from error
    return text


def _sampling(value: object) -> object:
    entries = _pairs(value)
    if not isinstance(entries, Mapping):
        return entries
    try:
        return {str(name): default_value(str(name), number) for name, number in entries.items()}
    except InvalidRequestError as error:
        raise PydanticCustomError("sampling", "{why}", {"why": error.message}) from error


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
Size = Annotated[ByteSize, BeforeValidator(_check_size_unit)]
AutoSize = Annotated[ByteSize | Literal["auto"], BeforeValidator(_check_auto_size)]
AutoTokens = Annotated[int | Literal["auto"], BeforeValidator(_check_tokens)]
Drafts = Annotated[int | Literal["auto", "off"], BeforeValidator(_check_drafts)]
Prompt = Annotated[str, AfterValidator(_check_prompt)]
KeyFilePath = Annotated[Path, AfterValidator(key_file_path)]
FilesDirectory = Annotated[str, AfterValidator(files_directory)]
StoreFile = Annotated[str, AfterValidator(store_file)]
KVDirectory = Annotated[str, AfterValidator(kv_directory)]
# NoDecode: without it pydantic-settings wants JSON in the variable.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
Pairs = Annotated[Mapping[str, str], NoDecode, BeforeValidator(_pairs)]
SamplingValues = Annotated[Mapping[str, int | float], NoDecode, BeforeValidator(_sampling)]
Aliases = Annotated[Pairs, AfterValidator(_check_aliases)]
Directories = Annotated[Names, AfterValidator(_absolute)]
Adapters = Annotated[Names, AfterValidator(_check_adapters)]
Origins = Annotated[Names, AfterValidator(_check_origins)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_commas)]
