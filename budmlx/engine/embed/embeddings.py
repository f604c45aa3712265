"""Embeddings: requests for vectors, from texts to what the caller gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from budmlx.engine.embed.job import Array, EmbeddingJob
from budmlx.engine.embed.texts import EncodedTexts, Text, TextEncoder
from budmlx.engine.load.sentence_transformers import EmbeddingFiles
from budmlx.engine.procedures import Procedure, off_loop
from budmlx.engine.run.origin import RequestOrigin, calling
from budmlx.engine.run.pipeline import RequestOutcome, RowDispatcher
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.plugins.manager import Plugins
from budmlx.progress import Progress
from budmlx.protocol import EmbedRequest
from budmlx.types import Finished, Priority, Timing, Usage

MOST_TEXTS = 2048
"""Texts of one request."""
PART_TOKENS = 2**20
"""Tokens of one message to the core."""
LEAST_NORM = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """What a request for vectors says beside its texts.

    dimensions: the vectors are cut to so many numbers, and have length 1 again. prompt_name: of
    the prompt that goes before each text. truncate: texts that are too long lose their end.
    owner: whose turn it is. priority: its class. adapter: of the name that was asked for; vectors
    can have none. param: what errors call the texts, with a place for a number.
    """

    dimensions: int | None = None
    prompt_name: str | None = None
    truncate: bool = False
    owner: str = ""
    priority: Priority = "interactive"
    adapter: str = ""
    param: str = "input[{}]"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of texts, in their order.

    vectors: float32 [texts, dimensions]. warnings: what was cut.
    """

    vectors: Array
    usage: Usage
    timing: Timing
    model: str
    warnings: tuple[str, ...] = ()


class EmbeddingPipeline:
    """Runs the requests for vectors of one engine. Thread-safe.

    files: None for a model that makes none.
    """

    def __init__(
        self,
        files: EmbeddingFiles | None,
        tokenizer: Tokenizer,
        dispatcher: RowDispatcher,
        plugins: Plugins,
    ):
        self._files = files
        self._dispatcher = dispatcher
        self._plugins = plugins
        info = dispatcher.info
        if files is not None:
            self._encoder = TextEncoder(files, tokenizer, info.context_length, info.vocab_size)

    def run(
        self,
        texts: Sequence[Text],
        options: EmbedOptions,
        origin: RequestOrigin | None = None,
        progress: Progress | None = None,
    ) -> Procedure[Embeddings]:
        """The vectors of texts. A procedure that is closed drops what is not computed.

        origin: for its record. progress: called with the number of vectors that are there.

        Raises:
            InvalidRequestError, ContextLengthError: a text or an option cannot be used.
            EngineUnavailableError, RequestFailedError: the core could not compute them.
        """
        work = self._encoded(texts, options)
        return (yield from self._computed(work, options, origin, progress))

    @property
    def classifies(self) -> bool:
        """Whether the model scores pairs of texts, and makes no vectors."""
        return self._files is not None and self._files.settings.scores

    def classified(
        self,
        query: str,
        documents: Sequence[str],
        options: EmbedOptions,
        origin: RequestOrigin | None = None,
    ) -> Procedure[Embeddings]:
        """The outputs of the model's classifier for a query with each document; see `run`."""

        def encode() -> EncodedTexts:
            return self._encoder.pairs(query, documents, cut=options.truncate)

        return (yield from self._computed(off_loop(encode), options, origin))

    def _computed(
        self,
        work: Procedure[EncodedTexts],
        options: EmbedOptions,
        origin: RequestOrigin | None,
        progress: Progress | None = None,
    ) -> Procedure[Embeddings]:
        """The vectors of what `work` encodes."""
        model = self._dispatcher.info.name
        with RequestOutcome(self._plugins, model, origin or calling()) as outcome:
            if options.adapter:
                raise InvalidRequestError(
                    f"Adapters are for replies: ask for {model} without {options.adapter}.",
                    param="model",
                )
            encoded = yield from work
            yield from outcome.reserve(encoded.tokens)
            job = self._submitted(encoded, options)
            try:
                while not job.over:
                    job.take((yield from job.mailbox.receive()))
                    if progress is not None:
                        progress(job.done, len(encoded.ids))
            finally:
                self._dispatcher.release(job)
            vectors = self._cut(job.vectors, options.dimensions)[encoded.places]
            usage = Usage(encoded.tokens, 0)
            outcome.note(Finished((), usage, job.timing))
            return Embeddings(vectors, usage, job.timing, model, encoded.warnings)

    def _encoded(self, texts: Sequence[Text], options: EmbedOptions) -> Procedure[EncodedTexts]:
        """The texts as ids. Raises the errors of `run`."""
        if self._files is None or self.classifies:
            raise InvalidRequestError(
                f"The model {self._dispatcher.info.name} does not support embeddings. Serve an "
                "embedding model, or start with --embed-any to use this one.",
                param="model",
                code="unsupported_model",
            )
        name = options.param.partition("[")[0]
        if not texts:
            raise InvalidRequestError(f"`{name}` is empty.", param=name)
        if len(texts) > MOST_TEXTS:
            raise InvalidRequestError(
                f"`{name}` has {len(texts)} texts; at most {MOST_TEXTS} go into one request.",
                param=name,
            )
        cut, param = options.truncate, options.param
        encode = partial(self._encoder.encoded, texts, options.prompt_name, cut=cut, param=param)
        return (yield from off_loop(encode))

    def _submitted(self, encoded: EncodedTexts, options: EmbedOptions) -> EmbeddingJob:
        parts = list(_parts(encoded.ids))
        ids = self._dispatcher.new_ids(len(parts))
        job = EmbeddingJob(dict(zip(ids, parts, strict=True)), len(encoded.ids))
        ends = [*parts[1:], len(encoded.ids)]
        requests = [
            EmbedRequest(
                id=request_id,
                texts=encoded.ids[begin:end],
                skips=encoded.skips[begin:end],
                seconds=encoded.seconds[begin:end],
                owner=options.owner,
                background=options.priority == "background",
            )
            for request_id, begin, end in zip(ids, parts, ends, strict=True)
        ]
        self._dispatcher.submit(job, requests)
        return job

    def _cut(self, vectors: Array, dimensions: int | None) -> Array:
        """The first numbers of vectors, as vectors of length 1."""
        wanted = dimensions or (self._files.dimensions if self._files else None)
        if wanted is None or wanted == vectors.shape[1]:
            return vectors
        if wanted > vectors.shape[1]:
            raise InvalidRequestError(
                f"`dimensions` is {wanted}; the vectors of this model have {vectors.shape[1]}.",
                param="dimensions",
            )
        vectors = vectors[:, :wanted]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, LEAST_NORM), dtype=np.float32)


def _parts(ids: Sequence[Sequence[int]]) -> Iterator[int]:
    """The number of the first text of each message to the core."""
    tokens = 0
    for number, each in enumerate(ids):
        if number == 0 or tokens + len(each) > PART_TOKENS:
            yield number
            tokens = 0
        tokens += len(each)
