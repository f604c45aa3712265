"""instructor: objects from tools, JSON and schemas."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.clients.server import KEY

openai = pytest.importorskip("openai", reason="make test-clients installs it")
instructor = pytest.importorskip("instructor", reason="make test-clients installs it")


class Kind(Enum):
    CAT = "cat"
    DOG = "dog"


class Pet(BaseModel):
    """An animal that lives with people."""

    kind: Kind
    age: int = Field(ge=0, le=30)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_modes(url: str, mode: str) -> None:
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
