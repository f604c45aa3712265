"""Model lookup: from a name to a checked directory, on this machine or of a hub repository."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from budmlx.engine.load.directory import check_model_dir
from budmlx.engine.load.library.download_bar import download_bar
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.places import name_of
from budmlx.engine.load.library.pull import PullProgress, Report, pull
from budmlx.engine.load.repository import REPOSITORY_NAME
from budmlx.errors import ModelLoadError

SHIPPED_MODEL = Path(__file__).parents[2] / "assets" / "tiny"
"""The demo model."""

Fetch = Callable[[str, str | None], Path]
"""Downloads a revision of a repository; gives its directory. Raises ModelLoadError."""


def pull_with_bar(
    name: str,
    revision: str | None,
    report: Report | None = None,
    cancelled: threading.Event | None = None,
) -> Path:
    """`pull` with a bar on stderr where something is to be fetched."""
    with download_bar(name) as show:

        def both(progress: PullProgress) -> None:
            show(progress)
            if report is not None:
                report(progress)

        return pull(name, revision, both, cancelled)


def resolve_model(
    name: str,
    revision: str | None = None,
    *,
    models_dirs: Iterable[str | Path] = (),
    fetch: Fetch | None = pull_with_bar,
    own: Collection[str] = (),
) -> Path:
    """Find a model as `find_model` does, and check its files.

    own: architectures that plugins load.

    Raises:
        ModelLoadError: there is no such model, or it cannot be used; says what to do next.
    """
    path = find_model(name, revision, models_dirs=models_dirs, fetch=fetch)
    check_model_dir(path, name, own)
    return path


def find_model(
    name: str,
    revision: str | None = None,
    *,
    models_dirs: Iterable[str | Path] = (),
    fetch: Fetch | None = pull_with_bar,
) -> Path:
    """Find the model `name`, and download it if needed.

    name: a directory, used as it is; a model in `models_dirs` or in LM Studio's folders; or a hub
    repository `org/name`.
    revision: branch, tag or commit of a repository, which is then taken from the hub.
    fetch: downloads it; None if that may not be.

    Raises:
        ModelLoadError: there is no such model; says what to do next.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelLoadError(f"{name} is a directory; a revision needs a hub repository.")
        return path
    if path.exists():
        raise ModelLoadError(f"{name} is a file; name the directory that holds config.json.")
    return _named(name, revision, models_dirs, fetch)


def _named(
    name: str, revision: str | None, models_dirs: Iterable[str | Path], fetch: Fetch | None
) -> Path:
    """The directory of a model that is not named by its path."""
    is_repository = REPOSITORY_NAME.fullmatch(name) is not None
    found = Library(models_dirs).lookup(name) if revision is None else None
    # The hub may have a newer version of what its cache has, or the rest of it.
    if found is not None and not (fetch and found.place == "hub" and is_repository):
        return found.path
    if not is_repository:
        raise ModelLoadError(
            f"There is no directory {name!r}, and a hub repository is named like org/name. "
            "Models on this machine are listed by: budmlx models"
        )
    if fetch:
        return fetch(name, revision)
    if (path := _cached(name, revision)) is None:
        chosen = f" --revision {revision}" if revision else ""
        raise ModelLoadError(
            f"{name} is not on this machine. Fetch it with: budmlx pull {name}{chosen}"
        )
    return path


def local_directory(
    name: str, revision: str | None = None, *, models_dirs: Iterable[str | Path] = ()
) -> Path | None:
    """The directory of a model whose files are on this machine already; None if they are not.

    Nothing is fetched, and the weights need not be there. The arguments are those of
    `resolve_model`.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if revision is not None:
        return _cached(name, revision)
    found = Library(models_dirs).lookup(name)
    return None if found is None else found.path


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a revision in the hub's cache; None if it is not there."""
    if not REPOSITORY_NAME.fullmatch(name):
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def model_name(model: str) -> str:
    """What a model is called that a user names so; see `name_of` for directories."""
    path = Path(model).expanduser()
    return name_of(path) or model if path.exists() else model
