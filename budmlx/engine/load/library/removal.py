"""Removal: a model out of the hub's cache, all revisions of it, by huggingface_hub's own means."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import DeleteCacheStrategy, scan_cache_dir

from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.places import in_hub_cache
from budmlx.errors import BudmlxError


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model would do. folder: what will be gone. freed: its bytes on disk."""

    name: str
    folder: Path
    revisions: int
    freed: int
    _strategy: DeleteCacheStrategy

    @classmethod
    def of(cls, library: Library, name: str) -> Removal:
        """Look at what there is; nothing is removed yet.

        Raises:
            ModelNotFoundError: there is no such model.
            BudmlxError: it is not in the hub's cache, whose files alone budmlx removes.
        """
        found = next((each for each in in_hub_cache(library.hub_cache) if each.name == name), None)
        if found is None or found.repository is None:
            model = library.find(name)
            raise BudmlxError(
                f"{name} is not in the hub's cache, and budmlx removes nothing elsewhere. "
                f"Delete it yourself: {model.path}"
            )
        folder = found.repository
        if folder.is_symlink():
            raise BudmlxError(f"{folder} is a link. Delete yourself: it and {folder.resolve()}")
        unfinished = sum(_bytes(path) for path in folder.glob("blobs/*.incomplete"))
        cache = scan_cache_dir(library.hub_cache)
        for repo in cache.repos:
            if repo.repo_type == "model" and repo.repo_path == folder.resolve():
                commits = [revision.commit_hash for revision in repo.revisions]
                # Copies of a repository have the same commits, of which any may be taken.
                strategy = replace(cache, repos=frozenset({repo})).delete_revisions(*commits)
                freed = strategy.expected_freed_size + unfinished
                return cls(name, folder, len(commits), freed, strategy)
        return cls._of_damaged(name, folder, library.hub_cache)

    @classmethod
    def _of_damaged(cls, name: str, folder: Path, cache: Path) -> Removal:
        """What the library's scan leaves out, such as a download that never ended."""
        freed = sum(_bytes(path) for path in folder.rglob("*") if not path.is_symlink())
        nothing = frozenset[Path]()
        strategy = DeleteCacheStrategy(
            expected_freed_size=freed,
            blobs=nothing,
            refs=nothing,
            repos=frozenset({folder}),
            snapshots=nothing,
            cache_dir=cache,
        )
        revisions = len(list(folder.glob("snapshots/*")))
        return cls(name, folder, revisions, freed, strategy)

    def execute(self) -> None:
        """Remove it. Raises BudmlxError if that was not possible."""
        self._strategy.execute()
        if os.path.lexists(self.folder):
            raise BudmlxError(f"{self.folder} could not be removed altogether. Delete it yourself.")


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
