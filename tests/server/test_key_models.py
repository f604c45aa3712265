"""Models that an API key may use."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from budmlx.config import Config, ModelConfig
from budmlx.config.key_file import add_record, new_key
from budmlx.config.keys import ApiKey, digest_of
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.state import LEDGER
from budmlx.types import Usage
from tests.adapters import write_mlx
from tests.models import tiny_model_dir
from tests.server.tools import Answer, body, check_error, exchange, get, post

OWN, OTHER = "org/one", "org/two"
TEXTS = body()["messages"]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TEXTS},
    "/v1/completions": {"prompt": "a"},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v1/decisions": {"input": "a", "yes_no": True},
    "/v1/tokenize": {"prompt": "a"},
    "/v1/detokenize": {"tokens": [1]},
    "/v1/apply_template": {"messages": TEXTS},
    "/v1/chat/completions/input_tokens": {"messages": TEXTS},
    "/v1/estimate": {"messages": TEXTS},
    "/v1/messages": {"messages": TEXTS, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": TEXTS},
    "/v1/responses": {"input": "a"},
    "/v1/responses/input_tokens": {"input": "a"},
    "/api/chat": {"messages": TEXTS},
    "/api/generate": {"prompt": "a"},
    "/api/embed": {"input": "a"},
    "/api/embeddings": {"prompt": "a"},
    "/api/show": {},
}
NO_MODEL = {
    "/v1/log_level",
    "/v1/reload",
    "/v1/models/load",
    "/v1/models/unload",
    "/v1/models/pull",
    "/api/pull",
    "/v1/files",
    "/v1/batches",
    "/v1/messages/batches",
}
"""Routes with a body that names no model, or that are for admins; lines of batches are requests."""
UNPAID = {
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/apply_template",
    "/v1/chat/completions/input_tokens",
    "/v1/estimate",
    "/v1/messages/count_tokens",
    "/v1/responses/input_tokens",
    "/api/show",
}
"""Routes that compute nothing."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for seed, name in enumerate((OWN, OTHER)):
        shutil.copytree(tiny_model_dir(scale=2.0, seed=seed), root / name)
    return root


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Keys by what they may use."""
    made = {}
    allowed = {"own": (OWN,), "alias": ("gpt-4",), "adapter": (f"{OWN}:poet",), "all": ()}
    for name, models in allowed.items():
        made[name] = new_key()
        add_record(tmp_path / "keys", ApiKey(name, digest_of(made[name]).hex(), models=models))
    return made


@pytest.fixture
async def server(library: Path, keys: dict[str, str], tmp_path: Path) -> AsyncIterator[HttpServer]:
    poet = write_mlx(tmp_path / "poet", library / OWN)
    config = Config(
        models_dir=(str(library),),
        models={OWN: ModelConfig(model=str(library / OWN), adapter=(f"poet={poet}",))},
        engine_host="thread",
        port=0,
        drain_seconds=0,
        warmup="off",
        aliases={"gpt-*": OWN},
        api_key_file=tmp_path / "keys",
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        yield server
        await server.drain()


async def asked(server: HttpServer, key: str, path: str, model: str) -> Answer:
    raw = json.dumps({**BODIES[path], "model": model}).encode()
    return await exchange(server, post(raw, path, Authorization=f"Bearer {key}"))


async def names(server: HttpServer, key: str, path: str = "/v1/models") -> set[str]:
    answer = await exchange(server, get(path, Authorization=f"Bearer {key}"))
    found = answer.json
    return {each.get("id") or each["name"] for each in found.get("data") or found["models"]}


async def test_every_route_refuses_the_models_of_others(
    server: HttpServer, keys: dict[str, str]
) -> None:
    document = (await exchange(server, get("/openapi.json"))).json
    posts = {path for path, entry in document["paths"].items() if "post" in entry}
    others = {path for path in posts - NO_MODEL - {"/v2/rerank"} if not path.endswith("/cancel")}
    assert others == BODIES.keys()
    for path in BODIES:
        answer = await asked(server, keys["own"], path, OTHER)
        assert answer.status == 404, (path, answer.content)
        text = json.dumps(answer.json["error"])
        assert f"It may use: {OWN}." in text and "Served" not in text, path
    assert server.models.loaded == []


async def test_names_of_a_model_that_is_allowed(server: HttpServer, keys: dict[str, str]) -> None:
    found = {
        name: {
            model
            for model in (OWN, "gpt-4", "gpt-5", f"{OWN}:poet", OTHER, "nobody")
            if (await asked(server, keys[name], "/v1/apply_template", model)).status == 200
        }
        for name in keys
    }
    all_of_one = {OWN, "gpt-4", "gpt-5", f"{OWN}:poet"}
    assert found == {
        "own": all_of_one,
        "alias": all_of_one,
        "adapter": {f"{OWN}:poet"},
        "all": {*all_of_one, OTHER},
    }


async def test_lists_show_only_these(server: HttpServer, keys: dict[str, str]) -> None:
    poet = "one:poet"  # the name of the model is that of its directory
    listed = {name: await names(server, key) for name, key in keys.items()}
    assert listed["own"] == listed["alias"] == listed["all"] - {OTHER} >= {OWN, poet}
    assert listed["adapter"] == {poet} and OTHER in listed["all"]
    tags = {name: await names(server, key, "/api/tags") for name, key in keys.items()}
    assert tags["adapter"] == {poet} and f"{OTHER}:latest" in tags["all"]
    assert f"{OWN}:latest" in tags["own"] and f"{OTHER}:latest" not in tags["own"]
    for name, status in (("own", 404), ("all", 200)):
        raw = get(f"/v1/models/{OTHER}", Authorization=f"Bearer {keys[name]}")
        assert (await exchange(server, raw)).status == status
    assert (await asked(server, keys["all"], "/v1/tokenize", OTHER)).status == 200
    loaded = {name: await names(server, keys[name], "/api/ps") for name in ("own", "all")}
    assert loaded == {"own": set(), "all": {f"{OTHER}:latest"}}


async def test_clients_get_their_own_errors(server: HttpServer, keys: dict[str, str]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=keys["own"]) as sdk:
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.chat.completions.create(model=OTHER, messages=TEXTS)
        assert caught.value.code == "model_not_found" and caught.value.param == "model"
        assert OTHER not in [each.id async for each in sdk.models.list()]
    answer = await asked(server, keys["own"], "/v1/messages", OTHER)
    assert answer.json["error"]["type"] == "not_found_error"


async def test_an_admin_loads_only_what_the_key_may_use(server: HttpServer, tmp_path: Path) -> None:
    key = new_key()
    record = ApiKey("root", digest_of(key).hex(), admin=True, models=(OWN,))
    add_record(tmp_path / "keys", record)
    raw = post(json.dumps({"model": OTHER}).encode(), "/v1/models/load", X_Api_Key=key)
    check_error(await exchange(server, raw), 404, code="model_not_found")


async def test_readiness_and_metrics_name_no_models_of_others(
    server: HttpServer, keys: dict[str, str]
) -> None:
    for model in (OWN, OTHER):
        assert (await asked(server, keys["all"], "/v1/tokenize", model)).status == 200
    seen = {}
    for name, key in (*keys.items(), ("none", None), ("wrong", "wrong")):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = await exchange(server, get("/ready", **headers))
        assert answer.status == 200 and answer.json["status"] == "ready"
        assert len(answer.json["memory"]) == len(answer.json["numbers"])
        seen[name] = len(answer.json["numbers"])
        answer = await exchange(server, get("/metrics", **headers))
        if name == "all":
            assert answer.status == 200 and OTHER.encode() in answer.content
        elif name in keys:
            check_error(answer, 403, code="all_models_only")
        else:
            assert answer.status == 401
    assert seen == {"own": 1, "alias": 1, "adapter": 1, "all": 2, "none": 0, "wrong": 0}


async def test_a_key_without_tokens_loads_no_model(server: HttpServer, tmp_path: Path) -> None:
    key = new_key()
    record = ApiKey("poor", digest_of(key).hex(), tokens_per_day=10)
    add_record(tmp_path / "keys", record)
    server._app[LEDGER].account(record).reserve(10, 0, 0).settle(Usage(10, 0))
    for path in BODIES.keys() - UNPAID:
        answer = await asked(server, key, path, OWN)
        assert answer.status == 429, (path, answer.content)
        assert "0 left of 10 per day" in answer.content.decode(), path
    assert server.models.loaded == []
