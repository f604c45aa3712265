"""Stores: where a server keeps what clients send; opened before there is a model to serve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

from budmlx.config import ServerConfig
from budmlx.engine.store.files import FileStore
from budmlx.engine.store.store import Limits, Store


class Stores:
    """The store of records and that of files, as the configuration says. A context manager.

    Raises:
        ConfigError: one of them cannot be used.
    """

    def __init__(self, config: ServerConfig):
        self.records = Store(None if config.store is None else Path(config.store))
        directory = None if config.files_dir is None else Path(config.files_dir)
        limits = Limits(config.files_max_count, config.files_max_size, math.inf)
        try:
            self.files = FileStore(directory, limits, config.file_max_size, config.server_tag)
        except BaseException:
            self.records.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep nothing any more. Idempotent."""
        self.files.close()
        self.records.close()
