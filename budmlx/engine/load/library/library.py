"""`Library`: the models on this machine, by name."""

from __future__ import annotations

import difflib
import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Self

from huggingface_hub import constants

from budmlx.config import ServerConfig
from budmlx.engine.load.directory import some
from budmlx.engine.load.library.facts import Signature, read_facts, signature
from budmlx.engine.load.library.local_model import Facts, LocalModel
from budmlx.engine.load.library.places import (
    Found,
    in_folder,
    in_hub_cache,
    is_directory,
    lm_studio_folders,
    name_of,
)
from budmlx.engine.load.repository import REPOSITORY_NAME, missing_files
from budmlx.errors import ModelNotFoundError
from budmlx.plugins.manager import Plugins

log = logging.getLogger(__name__)


class Library:
    """The models in `--models-dir`, in the hub's cache and in LM Studio's folders. Thread-safe.

    A name has one entry. Of several copies the first that can be served is used, in the order of
    these places; if none can, the first.

    models_dirs: directories with models. hub_cache: by default huggingface_hub's own. lm_studio: by
    default LM Studio's folders. architectures: those that plugins load, besides mlx-lm's.
    """

    def __init__(
        self,
        models_dirs: Iterable[str | Path] = (),
        hub_cache: Path | None = None,
        lm_studio: Sequence[Path] | None = None,
        architectures: Collection[str] = (),
    ):
        self.models_dirs = tuple(Path(path).expanduser().absolute() for path in models_dirs)
        self.hub_cache = hub_cache or Path(constants.HF_HUB_CACHE)
        self._lm_studio = lm_studio
        self._architectures = frozenset(architectures)
        self._read: dict[tuple[Path, str], tuple[Signature, Facts]] = {}
        self._lock = threading.Lock()
        for path in self.models_dirs:
            if not is_directory(path):
                log.warning("models_dir: there is no directory %s.", path)

    @classmethod
    def of(cls, config: ServerConfig, plugins: Plugins) -> Self:
        """The models that a configuration can serve. plugins: they may load further types."""
        return cls(config.models_dir, architectures=plugins.loaded_types)

    def models(self) -> list[LocalModel]:
        """All of them, by name, also those that cannot be served."""
        copies = self._copies()
        with self._lock:
            kept = {(found.path, found.name) for each in copies.values() for found in each}
            self._read = {key: value for key, value in self._read.items() if key in kept}
        return [self._chosen(copies[name]) for name in sorted(copies, key=str.lower)]

    def lookup(self, name: str) -> LocalModel | None:
        """The model of that name, or None. Nothing is looked for at a path of that name."""
        found = self._copies().get(name)
        return self._chosen(found) if found else None

    def find(self, name: str) -> LocalModel:
        """The model of that name, which may be one that cannot be served.

        Raises:
            ModelNotFoundError: there is none; the message has similar names and what to do.
        """
        copies = self._copies()
        if name in copies:
            return self._chosen(copies[name])
        raise ModelNotFoundError(_not_found(name, sorted(copies)), param="model")

    def at(self, path: Path) -> LocalModel:
        """The model in a directory that somebody named."""
        path = path.expanduser().absolute()
        return self._described(Found(name_of(path), path, "path"))

    def _copies(self) -> dict[str, list[Found]]:
        """What was found, by name, in the order of the places; each directory once."""
        copies: dict[str, list[Found]] = defaultdict(list)
        seen = set[tuple[str, Path]]()
        for found in self._places():
            try:
                key = (found.name, found.path.resolve())
            except (OSError, RuntimeError):  # a loop of links
                continue
            if key not in seen:
                seen.add(key)
                copies[found.name].append(found)
        return copies

    def _places(self) -> Iterator[Found]:
        folders = lm_studio_folders(Path.home()) if self._lm_studio is None else self._lm_studio
        return chain(
            *(in_folder(path, "models-dir") for path in self.models_dirs),
            in_hub_cache(self.hub_cache),
            *(in_folder(path, "lm-studio") for path in folders),
        )

    def _chosen(self, copies: Sequence[Found]) -> LocalModel:
        models = []
        for found in copies:
            models.append(self._described(found))
            if models[-1].servable:
                break
        chosen = models[-1] if models[-1].servable else models[0]
        also = tuple(found.path for found in copies if found.path != chosen.path)
        return replace(chosen, also=also)

    def _described(self, found: Found) -> LocalModel:
        return LocalModel.of(
            _with_download(found, self._facts(found)),
            name=found.name,
            path=found.path,
            place=found.place,
            revision=found.revision,
        )

    def _facts(self, found: Found) -> Facts:
        """What the files say; they are read again only if one of them changed."""
        key = (found.path, found.name)
        try:
            seen = signature(found.path)
        except OSError as error:
            problem = f"{found.name} cannot be read: {error.strerror}."
            return Facts(complete=False, problem=problem)
        with self._lock:
            before, facts = self._read.get(key, (None, Facts()))
        if seen != before:
            facts = read_facts(found.path, found.name, seen, self._architectures)
            with self._lock:
                self._read[key] = (seen, facts)
        return facts


def _with_download(found: Found, facts: Facts) -> Facts:
    """The facts of a snapshot in the light of what its repository has."""
    if found.repository is None:
        return facts
    missing = missing_files(found.name, found.revision, found.path, found.repository.parent)
    if not missing and not (facts.problem and found.unfinished):
        return facts
    what = f" ({some(missing)} missing)" if missing else ""
    advice = f"budmlx pull {found.name}" if found.place == "hub" else "hf download"
    problem = f"{found.name} is not completely downloaded{what}. Complete it with: {advice}"
    return replace(facts, complete=False, problem=problem)


def _not_found(name: str, names: Sequence[str]) -> str:
    """What to do about a name that no model has."""
    shown = name[:100]
    lower = {each.lower(): each for each in names}
    near = [each for each in names if each.rpartition("/")[2].lower() == shown.lower()]
    near += [lower[each] for each in difflib.get_close_matches(shown.lower(), lower, n=3)]
    text = f"There is no model {shown!r} on this machine."
    if near:
        text += f" Did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?"
    if REPOSITORY_NAME.fullmatch(shown):
        return f"{text} Fetch it with: budmlx pull {shown}"
    return f"{text} See: budmlx models"
