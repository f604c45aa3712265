"""The methods of an engine for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from budmlx.engine.embed.embeddings import EmbeddingPipeline, Embeddings, EmbedOptions
from budmlx.engine.embed.texts import Text
from budmlx.engine.procedures import Procedure, adrive, drive
from budmlx.engine.run.origin import RequestOrigin
from budmlx.progress import Progress


class EmbeddingMethods:
    """The methods of an engine for vectors of texts."""

    _embeddings: EmbeddingPipeline

    def embed(
        self, texts: str | Sequence[Text], *, progress: bool | Progress = False, **options: Any
    ) -> Embeddings:
        """The vectors of texts, or of token ids.

        texts: one text, or many. progress: True shows a bar on stderr; a function is called with
        the number of vectors that are there, and with that of all. options: `dimensions`,
        `prompt_name` and `truncate`, see `EmbedOptions`.

        Raises:
            InvalidRequestError: the model makes no vectors, or `param` is wrong.
            ContextLengthError: a text is longer than the model takes.

        >>> engine.embed(["a", "b"]).vectors.shape
        (2, 64)
        """
        return drive(self._embed(texts, EmbedOptions(**options), progress=progress))

    async def aembed(
        self,
        texts: str | Sequence[Text],
        *,
        progress: bool | Progress = False,
        origin: RequestOrigin | None = None,
        **options: Any,
    ) -> Embeddings:
        """`embed` for asyncio. origin: what `RequestRecord`s say of where it came from."""
        return await adrive(self._embed(texts, EmbedOptions(**options), origin, progress=progress))

    def _embed(
        self,
        texts: str | Sequence[Text],
        options: EmbedOptions,
        origin: RequestOrigin | None = None,
        *,
        progress: bool | Progress,
    ) -> Procedure[Embeddings]:
        self._check_open()
        many: Sequence[Text] = [texts] if isinstance(texts, str) else texts
        if progress is not True:
            return (yield from self._embeddings.run(many, options, origin, progress or None))
        with tqdm(desc="Embedding", total=len(many)) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return (yield from self._embeddings.run(many, options, origin, show))

    def _check_open(self) -> None:
        raise NotImplementedError
