"""Packages that ask for vectors, of the shipped model with `--embed-any`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.clients.server import KEY, needed, started

TEXTS = ("a fox", "the sea", "a fox")
Vectors = Sequence[Sequence[float]]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with started(BUDMLX_EMBED_ANY="true") as (url, _):
        yield f"{url}/v1"


def by_openai(base: str) -> Vectors:
    with needed("openai").OpenAI(base_url=base, api_key=KEY) as sdk:
        found = sdk.embeddings.create(model="demo", input=list(TEXTS))
        assert found.usage.total_tokens > 0
        return [each.embedding for each in found.data]


def by_litellm(base: str) -> Vectors:
    found = needed("litellm").embedding(
        model="openai/demo", input=list(TEXTS), api_base=base, api_key=KEY
    )
    return [each["embedding"] for each in found.data]


def by_langchain(base: str) -> Vectors:
    client = needed("langchain_openai").OpenAIEmbeddings(
        model="demo", base_url=base, api_key=KEY, check_embedding_ctx_length=False
    )
    found: Vectors = client.embed_documents(list(TEXTS))
    assert client.embed_query(TEXTS[0]) == pytest.approx(found[0], abs=1e-5)
    return found


def by_llama_index(base: str) -> Vectors:
    package: Any = needed("llama_index.embeddings.openai_like")
    client = package.OpenAILikeEmbedding(model_name="demo", api_base=base, api_key=KEY)
    found: Vectors = client.get_text_embedding_batch(list(TEXTS))
    return found


@pytest.mark.parametrize(
    "ask", [by_openai, by_litellm, by_langchain, by_llama_index], ids=lambda each: each.__name__
)
def test_vectors(ask: Callable[[str], Vectors], base: str) -> None:
    vectors = ask(base)
    assert len(vectors) == 3 and len({len(each) for each in vectors}) == 1
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-3)
