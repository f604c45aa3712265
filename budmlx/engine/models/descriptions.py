"""Descriptions: what the files of served models say, read again only when they change."""

from __future__ import annotations

import threading
from pathlib import Path

from budmlx.engine.load.hub import SHIPPED_MODEL
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.models.description import ModelDescription
from budmlx.engine.models.resident import Resident
from budmlx.plugins.manager import Plugins


class Descriptions:
    """Descriptions of the models of a library and of others. Thread-safe; its methods block."""

    def __init__(self, library: Library, plugins: Plugins):
        self._library = library
        self._plugins = plugins
        self._known: dict[str, tuple[LocalModel, ModelDescription]] = {}
        self._lock = threading.Lock()

    def files(self, resident: Resident) -> LocalModel | None:
        """What the files of a model say; None if they are not on this machine."""
        model = resident.spec.config.model
        if resident.engine is not None:
            return self._library.at(Path(resident.engine.info.path))
        if model is None:
            return self._library.at(SHIPPED_MODEL)
        path = Path(model).expanduser()
        return self._library.at(path) if path.is_dir() else self._library.lookup(model)

    def of(self, resident: Resident) -> ModelDescription | None:
        """All that is known of a model; None if its files are not on this machine."""
        files = self.files(resident)
        if files is None:
            return None
        with self._lock:
            before, known = self._known.get(resident.name, (None, None))
        if known is None or before != files:
            known = ModelDescription.of(files, resident.spec.config, self._plugins)
            with self._lock:
                self._known[resident.name] = (files, known)
        return known
