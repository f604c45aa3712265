"""instructor: objects from tools, JSON and schemas."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.clients.server import KEY, needed


class Kind(Enum):
    CAT = "cat"
    DOG = "dog"


class Pet(BaseModel):
    """An animal that lives with people."""

    kind: Kind
    age: int = Field(ge=0, le=30)


MODES = ("TOOLS", "JSON_SCHEMA")


@pytest.fixture(scope="module")
def openai() -> Any:
    return needed("openai")


@pytest.fixture(scope="module")
def instructor() -> Any:
    """The package; to import it takes seconds, so that only who runs these tests does."""
    return needed("instructor")


@pytest.mark.parametrize("mode", MODES)
def test_modes(url: str, openai: Any, instructor: Any, mode: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as sdk:
        client = instructor.from_openai(sdk, mode=instructor.Mode[mode])
        fields: Any = {
            "model": "demo",
            "messages": [{"role": "user", "content": "kind is dog, age is 4."}],
            "response_model": Pet,
            "max_tokens": 200,
            "max_retries": 1,
        }
        assert isinstance(client.chat.completions.create(**fields, seed=2), Pet)


@pytest.mark.parametrize("mode", MODES)
def test_several_at_once(url: str, openai: Any, instructor: Any, mode: str) -> None:
    fields: Any = {"model": "demo", "response_model": Pet, "temperature": 1.0, "max_tokens": 200}

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as sdk:
            create = instructor.from_openai(sdk, mode=instructor.Mode[mode]).chat.completions.create
            texts = (f"Answer in JSON: kind is dog, age is {n}." for n in range(4))
            asked = ([{"role": "user", "content": text}] for text in texts)
            return await asyncio.gather(
                *(
                    create(**fields, messages=each, seed=n, max_retries=1)
                    for n, each in enumerate(asked)
                )
            )

    assert all(isinstance(pet, Pet) for pet in asyncio.run(ask()))
