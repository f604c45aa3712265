"""The methods of an engine for vectors, rankings and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from tqdm.auto import tqdm

from budmlx.engine.embed.embeddings import EmbeddingPipeline, Embeddings, EmbedOptions
from budmlx.engine.embed.rerank import Ranker, Ranking, RankOptions
from budmlx.engine.embed.texts import Text
from budmlx.engine.procedures import Procedure, adrive, drive
from budmlx.engine.request.python_api import (
    Messages,
    chat_request,
    check_names,
    check_priority,
)
from budmlx.engine.run.decisions import Decider, Decision
from budmlx.engine.run.origin import RequestOrigin
from budmlx.progress import Progress
from budmlx.types import Request

Options = TypeVar("Options", EmbedOptions, RankOptions)


class EmbeddingMethods:
    """The methods of an engine for vectors of texts, rankings and decisions."""

    _embeddings: EmbeddingPipeline
    _decider: Decider
    _ranker: Ranker

    def embed(
        self, texts: str | Sequence[Text], *, progress: bool | Progress = False, **options: Any
    ) -> Embeddings:
        """The vectors of texts, or of token ids.

        texts: one text, or many. progress: True shows a bar on stderr; a function is called with
        the number of vectors that are there, and with that of all. options: `dimensions`,
        `prompt_name`, `truncate` and `priority`, see `EmbedOptions`.

        Raises:
            InvalidRequestError: the model makes no vectors, or `param` is wrong.
            ContextLengthError: a text is longer than the model takes.

        >>> engine.embed(["a", "b"]).vectors.shape
        (2, 64)
        """
        return drive(self._embed(texts, _options(EmbedOptions, options), progress=progress))

    async def aembed(
        self,
        texts: str | Sequence[Text],
        *,
        progress: bool | Progress = False,
        origin: RequestOrigin | None = None,
        **options: Any,
    ) -> Embeddings:
        """`embed` for asyncio. origin: what `RequestRecord`s say of where it came from."""
        return await adrive(
            self._embed(texts, _options(EmbedOptions, options), origin, progress=progress)
        )

    def rerank(self, query: str, documents: Sequence[str], **options: Any) -> Ranking:
        """Sort documents by how well they answer a query.

        options: `top_n`, `instruction`, `truncate` and `priority`, see `RankOptions`.

        Raises:
            InvalidRequestError: the model cannot rank, or `param` is wrong.
            ContextLengthError: a document is longer than the model takes.

        >>> engine.rerank("fox", ["a dog", "a fox"], top_n=1).results[0][0] in (0, 1)
        True
        """
        self._check_open()
        return drive(self._ranker.run(query, documents, _options(RankOptions, options)))

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        origin: RequestOrigin | None = None,
        **options: Any,
    ) -> Ranking:
        """`rerank` for asyncio. origin: see `aembed`."""
        self._check_open()
        return await adrive(
            self._ranker.run(query, documents, _options(RankOptions, options), origin)
        )

    def decide(
        self, messages: Messages | Request, choices: Sequence[str], **options: Any
    ) -> Decision:
        """How likely each of several answers to a conversation is.

        messages, options: as of `chat`. choices: what the reply could be.

        Raises:
            InvalidRequestError: a message, an option or a choice is wrong; `param` names it.

        >>> sum(engine.decide("Is it?", ["yes", "no"]).probabilities)
        1.0
        """
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        [decision] = drive(self._decider.run([request], choices, None))
        return decision

    async def adecide(
        self,
        messages: Messages | Request,
        choices: Sequence[str],
        *,
        origin: RequestOrigin | None = None,
        **options: Any,
    ) -> Decision:
        """`decide` for asyncio. origin: see `aembed`."""
        self._check_open()
        request = messages if isinstance(messages, Request) else chat_request(messages, options)
        [decision] = await adrive(self._decider.run([request], choices, origin))
        return decision

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


def _options(kind: type[Options], options: dict[str, Any]) -> Options:
    """Options of a request by their names. Raises InvalidRequestError."""
    check_names(options, kind.__slots__)
    check_priority(options)
    return kind(**options)
