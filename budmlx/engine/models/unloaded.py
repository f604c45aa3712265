"""Unloaded models: what their requests would take, from their files, without their weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from budmlx.config import Config
from budmlx.engine.assembly import TextParts
from budmlx.engine.load.directory import read_json
from budmlx.engine.load.library.facts import Signature, signature
from budmlx.engine.load.library.library import Library
from budmlx.engine.models.resident import ModelSpec
from budmlx.engine.procedures import drive
from budmlx.engine.request.prepare import Preparation
from budmlx.engine.run.rows import RequestWarnings
from budmlx.errors import OverloadedError
from budmlx.lookup import Bounded
from budmlx.model_context import UNBOUNDED_CONTEXT
from budmlx.plugins.manager import Plugins
from budmlx.threads import Worker
from budmlx.types import Estimate, ModelInfo, Request

T = TypeVar("T")

KEPT = 2
"""So many models have their tokenizers here: that of a large vocabulary takes 100 MB."""
MOST_WAITING = 32


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request to a model that is not loaded would take.

    to_unload: names of the models that would have to go first. warnings: about parts of the
    request that would have no effect.
    """

    estimate: Estimate
    to_unload: Sequence[str]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class UnloadedModel:
    """What is read of a model that is not loaded.

    files: the state of its directory then.
    """

    files: Signature
    info: ModelInfo
    preparation: Preparation
    warnings: RequestWarnings
    config: Config

    @classmethod
    def read(cls, path: Path, spec: ModelSpec, plugins: Plugins, library: Library) -> Self:
        """The model in `path`. Raises ModelLoadError, ConfigError."""
        name, config = spec.name, spec.config
        files, facts = signature(path), library.at(path)
        text = TextParts.of(path, config, plugins)
        described = read_json(path / "config.json", name)
        own = (described.get("text_config") or described).get("vocab_size")
        info = ModelInfo(
            name=name,
            path=str(path),
            model_type=text.files.model_type,
            context_length=min(
                facts.context or UNBOUNDED_CONTEXT, config.context_limit or UNBOUNDED_CONTEXT
            ),
            vocab_size=own if isinstance(own, int) else text.tokenizer.backend.get_vocab_size(),
            eos_token_ids=tuple(text.tokenizer.eos_token_ids),
            batchable=True,
            fingerprint="",
            created=0,
        )
        return cls(
            files,
            info,
            text.preparation(info, config, plugins),
            text.warnings(info, plugins, cached=config.cache != "off"),
            config,
        )

    def estimate(self, request: Request, longest: int | None) -> Estimate:
        """What a request would take. longest: tokens that memory will hold; None if unknown.

        Raises:
            InvalidRequestError, ContextLengthError: as the loaded model does.
        """
        _, prompt = drive(self.preparation.run(request))
        count, context = len(prompt.ids), self.info.context_length
        held = context if longest is None else longest
        most = request.sampling.max_tokens or context
        return Estimate(
            prompt_tokens=count,
            cached_tokens=0,
            max_tokens=max(0, min(most, held - count)),
            fits=None if longest is None else count < longest,
            running=0,
            waiting=0,
            expected_wait=None,
        )


class UnloadedModels:
    """The models that were read last, on a thread of their own. Thread-safe."""

    def __init__(self, plugins: Plugins, library: Library):
        self._plugins = plugins
        self._library = library
        self._read: Bounded[tuple[str, Path], UnloadedModel] = Bounded(
            count=KEPT
        )  # on the thread only
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run what uses `read`, on the thread. Raises OverloadedError if too much waits for it."""
        with self._lock:
            self._worker = worker = self._worker or Worker("budmlx-estimates")
        if worker.backlog >= MOST_WAITING:
            raise OverloadedError("Too many estimates of models that are not loaded; retry later.")
        return worker.submit(call)

    def read(self, path: Path, spec: ModelSpec) -> UnloadedModel:
        """The model in `path`, on the thread only. Raises ModelLoadError, ConfigError."""
        model = self._read.get((spec.name, path))
        if model is None or model.files != signature(path) or model.config is not spec.config:
            model = UnloadedModel.read(path, spec, self._plugins, self._library)
            self._read.put((spec.name, path), model)
        return model

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            if self._worker is not None:
                self._worker.end()
                self._worker = None
