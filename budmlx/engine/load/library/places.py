"""Places: where models are looked for, and what lies there. Only names of files are read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from budmlx.engine.load.directory import UNSAFE_WEIGHTS
from budmlx.engine.load.library.local_model import Place

log = logging.getLogger(__name__)

REPOSITORY = "models--"
"""Begins the names of folders in the hub's cache that hold models."""
_WEIGHTS = {".safetensors", ".gguf", *UNSAFE_WEIGHTS}
_TOLD: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that seems to hold a model. revision: the commit of a hub's snapshot.

    repository: its folder in the hub's cache. unfinished: a download to there was begun and has
    not ended, now or ever.
    """

    name: str
    path: Path
    place: Place
    revision: str = ""
    repository: Path | None = None
    unfinished: bool = False


def name_of(path: Path) -> str:
    """What the model in a directory is called.

    A directory has its own name, also where it is a link; a snapshot in the hub's cache has that
    of its repository.
    """
    # Unlike `resolve`, it follows no link.
    path = Path(os.path.abspath(path))
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith(REPOSITORY):
        return _repository_name(repository)
    return path.name


def in_hub_cache(cache: Path, place: Place = "hub") -> Iterator[Found]:
    """The models of a cache of the hub's, a snapshot of each: that of `main`, else the newest."""
    for folder in _inside(cache):
        if folder.name.startswith(REPOSITORY) and (found := _repository(folder, place)):
            yield found


def in_folder(folder: Path, place: Place) -> Iterator[Found]:
    """The models of a folder in which each has a directory, by itself or in that of its publisher.

    The folder may also be a model, or a cache of the hub's. Links to directories are followed; what
    lies deeper is not looked for, so that loops of links end.
    """
    if _seems_a_model(folder):
        yield Found(folder.name, folder, place)
        return
    for path in _inside(folder):
        if path.name.startswith(".") or not is_directory(path):
            continue
        if path.name.startswith(REPOSITORY):
            if found := _repository(path, place):
                yield found
        elif _seems_a_model(path):
            yield Found(path.name, path, place)
        else:
            for inner in _inside(path):
                if is_directory(inner) and _seems_a_model(inner):
                    yield Found(f"{path.name}/{inner.name}", inner, place)


def lm_studio_folders(home: Path) -> list[Path]:
    """Where LM Studio keeps models: what its settings name, and its usual folders."""
    places = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    if pointed := _read(home / ".lmstudio-home-pointer").strip():
        places.insert(0, Path(pointed))
    folders = []
    for place in places:
        try:
            named = json.loads(_read(place / "settings.json") or "{}").get("downloadsFolder")
        except (ValueError, AttributeError, RecursionError):
            named = None
        folders += [Path(named)] if isinstance(named, str) and named else []
        folders.append(place / "models")
    return [folder for folder in dict.fromkeys(folders) if is_directory(folder)]


def _repository_name(folder: str) -> str:
    return folder.removeprefix(REPOSITORY).replace("--", "/", 1)


def _repository(folder: Path, place: Place) -> Found | None:
    name = _repository_name(folder.name)
    unfinished = any(file.suffix == ".incomplete" for file in _inside(folder / "blobs"))
    snapshots = {path.name: path for path in _inside(folder / "snapshots") if is_directory(path)}
    if not snapshots:
        # What only was asked for has no files either.
        return Found(name, folder, place, "", folder, True) if unfinished else None
    revision = _read(folder / "refs" / "main").strip()
    if revision not in snapshots:
        revision = max(snapshots, key=lambda each: (snapshots[each].stat().st_mtime, each))
    return Found(name, snapshots[revision], place, revision, folder, unfinished)


def _seems_a_model(path: Path) -> bool:
    return any(
        file.name in ("config.json", "adapter_config.json") or file.suffix in _WEIGHTS
        for file in _inside(path)
    )


def _inside(path: Path) -> list[Path]:
    """What a directory holds, sorted; nothing where it is none or cannot be read."""
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if path not in _TOLD:
            _TOLD.add(path)
            log.warning("Models in %s are not seen: %s.", path, error.strerror)
        return []


def is_directory(path: Path) -> bool:
    """Whether it is one that can be looked at; `Path.is_dir` may fail where it is not."""
    try:
        return path.is_dir()
    except OSError:  # such as a loop of links, or a folder that must not be read
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
