"""Unloaded models: what their requests would take, from their files, without their weights."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from budmlx.config import Config
from budmlx.engine.assembly import TextParts
from budmlx.engine.load.directory import read_json
from budmlx.engine.load.library.facts import Signature, signature
from budmlx.engine.load.library.kv_size import CHUNK, KVLayout
from budmlx.engine.load.library.library import Library
from budmlx.engine.models.resident import ModelSpec
from budmlx.engine.models.shares import LEAST_WORK
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

    files: the state of its directory then. weights: bytes. kv: None where it is not known.
    """

    files: Signature
    info: ModelInfo
    preparation: Preparation
    warnings: RequestWarnings
    weights: int
    kv: KVLayout | None
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
            facts.weights,
            KVLayout.of(described, facts.dtype),
            config,
        )

    def estimate(self, request: Request, room: int | None) -> Estimate:
        """What a request would take. room: bytes that the model would have; None if unknown.

        Raises:
            InvalidRequestError, ContextLengthError: as the loaded model does.
        """
        _, prompt = drive(self.preparation.run(request))
        count, context = len(prompt.ids), self.info.context_length
        longest = context if room is None else self._longest(room)
        most = request.sampling.max_tokens or context
        return Estimate(
            prompt_tokens=count,
            cached_tokens=0,
            max_tokens=max(0, min(most, longest - count)),
            fits=None if room is None else count < longest,
            running=0,
            waiting=0,
            expected_wait=None,
        )

    def _longest(self, room: int) -> int:
        """Most tokens of a row within so many bytes: it may be copied once, as it grows."""
        free, chunk = room - self.weights - LEAST_WORK, self.config.prefill_chunk
        chunk = CHUNK if chunk == "auto" else chunk
        if free < 0 or self.kv is None:
            return 0 if free < 0 else self.info.context_length
        size = partial(self.kv.row_bytes, kv_bits=self.config.kv_bits, chunk=chunk)
        tokens = range(1, self.info.context_length + 1)
        return bisect_right(tokens, free, key=lambda count: 2 * size(count))


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
