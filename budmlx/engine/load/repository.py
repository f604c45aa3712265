"""Repositories of the hub: which of their files are fetched, and why that fails."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from huggingface_hub import constants, get_cached_repo_tree
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from budmlx.errors import ModelLoadError

REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What loading reads: neither code nor pickles, whatever else is there.
ALLOWED = [
    *("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "model*.safetensors"),
    "[1-9]_*/model.safetensors",
]
# Of folders only those of further templates, and of what follows an embedding model, as
# `1_Pooling`.
IGNORED = ["[!1-9a]*/*", "[1-9][!_]*/*", "a[!d]*/*"]


def missing_files(name: str, revision: str, snapshot: Path, cache: Path) -> list[str]:
    """Files that a snapshot lacks of those that are fetched, where the hub's cache lists them.

    revision: the commit of the snapshot.
    """
    try:
        listed = get_cached_repo_tree(name, revision=revision, cache_dir=cache)
    except (CachedRepoTreeNotFoundError, OSError, ValueError):
        return []
    wanted = filter_repo_objects(
        (file.path for file in listed), allow_patterns=ALLOWED, ignore_patterns=IGNORED
    )
    return [path for path in wanted if not (snapshot / path).exists()]


def failure(error: Exception, name: str, revision: str | None) -> ModelLoadError:
    """The error that says why a download failed, and what to do about it.

    The library's own texts are not used: they may contain the address with its credentials.
    """
    code, text = _reason(error, name, revision)
    if Path(name).parent.is_dir():
        text = f"There is no directory {name}. {text}"
    return ModelLoadError(text, code=code)


def _reason(error: Exception, name: str, revision: str | None) -> tuple[str | None, str]:
    """A code, where it says more than that there is no model, and the words."""
    match error:
        case GatedRepoError():
            return "gated", (
                f"{name} needs its licence accepted on its web page, then HF_TOKEN set to a token "
                "of the account that did."
            )
        case RepositoryNotFoundError():
            return "repository_not_found", (
                f"The hub has no repository {name}, or it is private. Check the spelling; "
                "for a private one set HF_TOKEN to a token that may read it."
            )
        case RevisionNotFoundError():
            return "revision_not_found", (
                f"{name} has no revision {revision or 'main'!r}. Check branch, tag or commit."
            )
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return None, (
                f"{name} is not completely downloaded and HF_HUB_OFFLINE is set. "
                "Unset it, or name a directory."
            )
        case HfHubHTTPError(response=response) if response is not None:
            return None, f"The hub answered {response.status_code} for {name}. Try again later."
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return "no_space", (
                f"No space left to download {name}. Free some, or set HF_HOME elsewhere."
            )
        case PermissionError():
            return None, (
                f"Cannot write {name} to the hub's cache. Set HF_HOME to a writable directory."
            )
        case ValueError():
            return None, f"The repository {name} is refused: it has file names that are not safe."
        case _:
            return None, (
                f"The download of {name} failed. Check the network and HF_ENDPOINT, then run "
                "the same command again: files that are complete are kept."
            )
