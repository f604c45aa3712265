"""Ranking: which documents answer a query, by a classifier or by what a chat model would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from budmlx.engine.embed.embeddings import MOST_TEXTS, EmbeddingPipeline, EmbedOptions
from budmlx.engine.embed.job import Array
from budmlx.engine.procedures import Procedure
from budmlx.engine.run.decisions import Decider
from budmlx.engine.run.origin import RequestOrigin
from budmlx.errors import InvalidRequestError
from budmlx.types import Message, ModelInfo, Priority, Request, SamplingParams, Usage

INSTRUCTIONS = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
"""The system message that Qwen3-Reranker was trained with."""
NOT_CUT = "`truncate` has no effect: a chat model reads whole documents, or refuses them."
INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"
ANSWERS = ("yes", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """What a request for a ranking says beside its texts.

    top_n: so many of the best are told. instruction: what relevant means, for models that are
    asked in words. truncate: documents that are too long lose their end. owner, priority, adapter:
    as of other requests.
    """

    top_n: int | None = None
    instruction: str = INSTRUCT
    truncate: bool = False
    owner: str = ""
    priority: Priority = "interactive"
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best documents first, each by its place in the request, with its score from 0 to 1."""

    results: tuple[tuple[int, float], ...]
    usage: Usage
    model: str
    warnings: tuple[str, ...] = ()


class Ranker:
    """Ranks documents by one model."""

    def __init__(self, embeddings: EmbeddingPipeline, decider: Decider, info: ModelInfo):
        self._embeddings = embeddings
        self._decider = decider
        self._info = info

    def run(
        self,
        query: str,
        documents: Sequence[str],
        options: RankOptions,
        origin: RequestOrigin | None = None,
    ) -> Procedure[Ranking]:
        """Rank documents.

        Raises:
            InvalidRequestError: the model cannot, or there are no documents, or too many.
            ContextLengthError: a document is too long.
        """
        if not 0 < len(documents) <= MOST_TEXTS:
            raise InvalidRequestError(
                f"`documents` must have 1 to {MOST_TEXTS} items.", param="documents"
            )
        if self._embeddings.classifies:
            own = EmbedOptions(
                truncate=options.truncate,
                owner=options.owner,
                priority=options.priority,
                adapter=options.adapter,
            )
            found = yield from self._embeddings.classified(query, documents, own, origin)
            scores = _scores(found.vectors)
            usage, warnings = found.usage, found.warnings
        elif self._info.generates:
            ask = partial(_request, query, options=options)
            decisions = yield from self._decider.run(
                [ask(document) for document in documents],
                ANSWERS,
                origin,
                [f"documents[{number}]" for number in range(len(documents))],
            )
            scores = [each.probabilities[0] for each in decisions]
            usage = Usage(sum(each.usage.prompt_tokens for each in decisions), 0)
            warnings = (NOT_CUT,) if options.truncate else ()
        else:
            raise InvalidRequestError(
                f"The model {self._info.name} does not rank documents. Use a reranker, or a chat "
                "model.",
                param="model",
                code="unsupported_model",
            )
        best = sorted(enumerate(scores), key=lambda each: -each[1])
        return Ranking(tuple(best[: options.top_n]), usage, self._info.name, warnings)


def _request(query: str, document: str, *, options: RankOptions) -> Request:
    """The question about one document. It ends the prompt, so that all share the beginning."""
    asked = f"<Instruct>: {options.instruction}\n<Query>: {query}\n<Document>: {document}"
    system = Message(role="system", content=INSTRUCTIONS)
    messages = system, Message(role="user", content=asked)
    return Request(
        messages=messages,
        sampling=SamplingParams(),
        namespace=options.owner,
        priority=options.priority,
        adapter=options.adapter,
    )


def _scores(logits: Array) -> list[float]:
    """Scores from 0 to 1 of a classifier's outputs [documents, labels].

    Of two labels the second one is "relevant".
    """
    wide = logits.astype(np.float64)
    if wide.shape[1] == 1:
        return [float(each) for each in 1 / (1 + np.exp(-wide[:, 0]))]
    if wide.shape[1] == 2:
        return [float(each) for each in 1 / (1 + np.exp(wide[:, 0] - wide[:, 1]))]
    raise InvalidRequestError(
        f"The model's classifier has {wide.shape[1]} labels, of which none means relevance.",
        param="model",
        code="unsupported_model",
    )
