"""`GET /v1/models` and `GET /v1/models/{id}`, in a shape that clients of all dialects read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from budmlx.engine.engine import Engine
from budmlx.engine.models.models import ServedModel
from budmlx.engine.models.resident import Resident, State
from budmlx.errors import InvalidRequestError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import find_model, listed

endpoints = EndpointTable("/v1")


class Residence(Struct, frozen=True):
    """A model in memory. requests: how many use it. The others are bytes.

    limit: weights, KV caches and activations together. active: in use now.
    """

    pinned: bool
    requests: int
    limit: int
    weights: int
    active: int


class Model(Struct, frozen=True):
    """A name that is served.

    created: when the model was made, in seconds of the Unix clock. root: the name of the model
    itself, where this is another name of it. parent: the same, of an adapter. state: whether it
    is loaded. max_model_len: tokens of a prompt and its reply together that its memory holds, or
    would hold if it were loaded now. error: why it could not be loaded. speculation: of a loaded
    model, the setting, or unsupported where what was computed cannot be taken back. draft_model:
    what drafts for it, if it is loaded and has one. residence: what it takes, if it is loaded.
    The fields after it say some of this in the words of Anthropic.
    """

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    state: State
    max_model_len: int | None = None
    parent: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    speculation: str | UnsetType = UNSET
    draft_model: str | UnsetType = UNSET
    residence: Residence | UnsetType = UNSET
    type: Literal["model"] = "model"
    display_name: str = ""
    created_at: str = ""
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class ModelList(Struct, frozen=True):
    """The names that are served. has_more: there are others than these."""

    object: str
    data: list[Model]
    has_more: bool
    first_id: str | None
    last_id: str | None


@endpoints.get(
    "/v1/models",
    "List every name that is served",
    ModelList,
    query={
        "limit": {"type": "integer", "minimum": 1, "description": "Most of them; else all."},
        "after_id": {"type": "string", "description": "Only those after this one."},
        "before_id": {"type": "string", "description": "Only those before this one."},
    },
)
async def list_models(request: web.Request) -> web.Response:
    """List every name that is served, or a page of them. Raises InvalidRequestError."""
    found = dict(await listed(request))
    names, has_more = _page([*found], request.query)
    entries = [entry_of(name, found[name]) for name in names]
    ids = [entry.id for entry in entries]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return as_json(ModelList("list", entries, has_more, first, last))


def _page(names: Sequence[str], query: Mapping[str, str]) -> tuple[Sequence[str], bool]:
    """The names that are asked for, and whether there are more in that direction."""
    limit, after, before = (query.get(name) for name in ("limit", "after_id", "before_id"))
    if limit is not None and not re.fullmatch("0*[1-9][0-9]{0,8}", limit):
        raise InvalidRequestError("`limit` must be a number of names, from 1.", param="limit")
    if after in names:
        names = names[names.index(after) + 1 :]
    if before in names:
        names = names[: names.index(before)]
    count = len(names) if limit is None else int(limit)
    backwards = before is not None and after is None
    page = names[-count:] if backwards and count else names[:count]
    return page, len(page) < len(names)


@endpoints.get(
    "/v1/models/{id:.+}",
    "Describe one name",
    Model,
    errors=(404,),
    parameters={"id": "It may hold slashes, escaped or not."},
)
async def get_model(request: web.Request) -> web.Response:
    """Describe one name, which may hold slashes. Raises ModelNotFoundError."""
    name = request.match_info["id"]
    return as_json(entry_of(name, await find_model(request, name)))


def entry_of(name: str, served: ServedModel) -> Model:
    """What is told of a model under one of its names."""
    model = served.resident
    longest = served.longest
    error = UNSET if model.error is None else model.error.message
    return Model(
        name,
        "model",
        model.created,
        "budmlx",
        root=model.name,
        state=model.state,
        max_model_len=longest,
        parent=model.name if served.adapter else UNSET,
        error=error,
        speculation=UNSET if model.engine is None else model.engine.info.speculation,
        draft_model=(model.engine.info.draft_model if model.engine else "") or UNSET,
        residence=UNSET if model.engine is None else _residence(model, model.engine),
        display_name=name,
        created_at=datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=longest,
        max_tokens=longest,
    )


def _residence(model: Resident, engine: Engine) -> Residence:
    status = engine.status()
    return Residence(
        model.pinned,
        model.users,
        status.budget.limit,
        status.budget.weights,
        status.memory.active,
    )
