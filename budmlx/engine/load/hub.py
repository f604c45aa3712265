"""Model lookup: from a name to a checked directory, local or of a hub repository."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from budmlx.engine.load.directory import check_links, check_model_dir, no_weights
from budmlx.errors import ModelLoadError

# Top-level files that loading reads: neither code nor pickles, whatever else is there.
ALLOWED = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "model*.safetensors"]
IGNORED = ["*/*"]
SHIPPED_MODEL = Path(__file__).parents[2] / "assets" / "tiny"
"""The demo model."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class DownloadBar(tqdm):
    """huggingface_hub's bar, shown also where stderr is not a terminal, only less often."""

    def __init__(self, *args: Any, **kwargs: Any):
        interval = 0.1 if sys.stderr.isatty() else 10.0
        super().__init__(*args, **{**kwargs, "disable": False, "mininterval": interval})  # type: ignore[no-untyped-call]

    @classmethod
    def close_all(cls) -> None:
        """End the lines of bars that the library leaves open (2.4 does), before text follows."""
        for bar in tuple(getattr(cls, "_instances", ())):
            bar.close()


class NoDownloadBar(tqdm):
    """A bar that is never shown."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


def resolve_model(name: str, revision: str | None = None, *, progress: bool = True) -> Path:
    """Find the model `name`, download it if needed, and check its files.

    name: a directory, used as it is, or a hub repository `org/name`. HF_ENDPOINT, HF_HOME,
    HF_TOKEN and HF_HUB_OFFLINE mean what they always do. A dropped connection is resumed;
    after an interruption the files that were complete are kept.
    revision: branch, tag or commit of a repository. progress: show bars on stderr.

    Raises:
        ModelLoadError: there is no such model, or it cannot be used; says what to do next.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelLoadError(f"{name} is a directory; a revision needs a hub repository.")
    elif path.exists():
        raise ModelLoadError(f"{name} is a file; name the directory that holds config.json.")
    elif not _REPOSITORY.fullmatch(name):
        raise ModelLoadError(
            f"There is no directory {name!r}, and a hub repository is named like org/name."
        )
    else:
        path = _download(name, revision, progress)
    check_model_dir(path, name)
    return path


def local_directory(name: str, revision: str | None = None) -> Path | None:
    """The directory of a model whose files are on this machine already; None if they are not.

    Nothing is fetched, and the weights need not be there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not _REPOSITORY.fullmatch(name):
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def model_name(model: str) -> str:
    """What a model is called that a user names so.

    A directory has its own name, also where it is a link; a snapshot in the hub's cache has that
    of its repository.
    """
    path = Path(model).expanduser()
    if not path.exists():
        return model
    # Unlike `resolve`, it follows no link.
    path = Path(os.path.abspath(path))
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return path.name or model


def _download(name: str, revision: str | None, progress: bool) -> Path:
    try:
        shown = progress and _needs_download(name, revision)
        path = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=ALLOWED,
                ignore_patterns=IGNORED,
                tqdm_class=DownloadBar if shown else NoDownloadBar,
            )
        )
        if constants.HF_HUB_OFFLINE:
            check_links(path, name, "Unset HF_HUB_OFFLINE, so that it is fetched again.")
        if not any(path.glob("model*.safetensors")):
            files = HfApi().list_repo_files(name, revision=path.name)
            raise ModelLoadError(f"{name} {no_weights(files)}")
    except (OSError, HTTPError, ValueError) as error:
        # The library's own texts may contain the address with its credentials.
        raise ModelLoadError(_reason(error, name, revision)) from error
    finally:
        DownloadBar.close_all()
    return path


def _needs_download(name: str, revision: str | None) -> bool:
    """Whether anything is missing, so that bars appear only where there is something to see."""
    try:
        files = snapshot_download(
            name,
            revision=revision,
            allow_patterns=ALLOWED,
            ignore_patterns=IGNORED,
            tqdm_class=NoDownloadBar,
            dry_run=True,
        )
    except DryRunError:  # offline: what is there must do
        return False
    return any(file.will_download for file in files)


def _reason(error: Exception, name: str, revision: str | None) -> str:
    """The reason why a download failed, and what to do about it."""
    if Path(name).parent.is_dir():
        return f"There is no directory {name}. {_hub_reason(error, name, revision)}"
    return _hub_reason(error, name, revision)


def _hub_reason(error: Exception, name: str, revision: str | None) -> str:
    match error:
        case GatedRepoError():
            return f"{name} needs its licence accepted on its web page, then HF_TOKEN set."
        case RepositoryNotFoundError():
            return (
                f"The hub has no repository {name}, or it is private. Check the spelling; "
                "for a private one set HF_TOKEN to a token that may read it."
            )
        case RevisionNotFoundError():
            return f"{name} has no revision {revision or 'main'!r}. Check branch, tag or commit."
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return (
                f"{name} is not completely downloaded and HF_HUB_OFFLINE is set. "
                "Unset it, or name a directory."
            )
        case HfHubHTTPError(response=response) if response is not None:
            return f"The hub answered {response.status_code} for {name}. Try again later."
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"No space left to download {name}. Free some, or set HF_HOME elsewhere."
        case PermissionError():
            return f"Cannot write {name} to the hub's cache. Set HF_HOME to a writable directory."
        case ValueError():
            return f"The repository {name} is refused: it has file names that are not safe."
        case _:
            return (
                f"The download of {name} failed. Check the network and HF_ENDPOINT, then run "
                "the same command again: files that are complete are kept."
            )
