"""What is told of models: `/api/tags`, `/api/ps`, `/api/show` and `/api/version`."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct
from pydantic import Field

from budmlx.engine.load.directory import read_json
from budmlx.engine.load.library.local_model import Facts, LocalModel
from budmlx.engine.models.description import ModelDescription
from budmlx.engine.models.models import Models, ServedModel
from budmlx.engine.models.resident import Resident
from budmlx.errors import ModelLoadError
from budmlx.server.dialects.ollama.keep_alive import FOR_GOOD
from budmlx.server.dialects.ollama.names import meant, tagged
from budmlx.server.dialects.ollama.request_body import NamedModel, read
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import find_model, listed
from budmlx.server.state import CONFIG, MODELS
from budmlx.server.warnings_header import warnings_header

VERSION = "0.13.4"
"""The version of Ollama's interface that this is; clients read it as three numbers."""
NEVER = "2318-01-01T00:00:00Z"
TEMPLATE = "{{ .Prompt }}"
INFILL_TEMPLATE = "{{ .Prompt }}{{ .Suffix }}"
"""Our templates are no Go templates. Clients only look whether there is a suffix in it."""

Capability = Literal["completion", "tools", "insert", "vision", "thinking", "embedding"]

endpoints = EndpointTable()


class Version(Struct, frozen=True):
    """The version of the interface."""

    version: str


class Details(Struct, frozen=True):
    """What a model is. context_length: tokens of a prompt and its reply together."""

    parent_model: str
    format: str
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str
    context_length: int


class ListedModel(Struct, frozen=True):
    """A name that is served. size: bytes of its files. digest: of what its files say."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Struct, frozen=True):
    """Every name that is served."""

    models: list[ListedModel]


class RunningModel(Struct, frozen=True):
    """A model that is loaded. size: bytes of its weights."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: Details
    expires_at: str
    context_length: int


class Running(Struct, frozen=True):
    """The models that are loaded."""

    models: list[RunningModel]


class Shown(Struct, frozen=True):
    """What is known of a model. parameters: lines of a name and a value."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: tuple[Capability, ...]
    modified_at: str


class OllamaShow(NamedModel):
    """The body of `/api/show`."""

    verbose: bool = Field(False, description="Changes nothing: all is told.")


@endpoints.get("/api/version", "The version of the interface", Version)
async def version(request: web.Request) -> web.Response:
    """Say which version of the interface this is."""
    return as_json(Version(VERSION))


@endpoints.get("/api/tags", "List every name that is served, as Ollama does", Tags)
async def tags(request: web.Request) -> web.Response:
    """List every name that is served."""
    found = await listed(request)
    return as_json(await asyncio.to_thread(_tags, request.app[MODELS], found))


@endpoints.get("/api/ps", "List the models that are loaded", Running)
async def running(request: web.Request) -> web.Response:
    """List the models that are loaded."""
    models = list(dict.fromkeys(served.resident for _, served in await listed(request)))
    return as_json(await asyncio.to_thread(_running, request.app[MODELS], models))


@endpoints.post("/api/show", "Describe a model", OllamaShow, Shown)
async def show(request: web.Request) -> web.Response:
    """Describe a model, which need not be loaded. Raises ModelNotFoundError."""
    body, _ = await read(request, OllamaShow.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)
    models = request.app[MODELS]
    resident = (await find_model(request, meant(body.model, models))).resident
    shown = await asyncio.to_thread(_shown, body.model, resident, models)
    return as_json(shown, warnings_header(warnings))


def _tags(models: Models, found: Iterable[tuple[str, ServedModel]]) -> Tags:
    entries = []
    for name, served in found:
        resident = served.resident
        files = models.descriptions.files(resident)
        entries.append(
            ListedModel(
                tagged(name),
                tagged(name),
                _time(resident.created),
                files.size if files else 0,
                _digest(resident, files),
                _details(resident, files),
            )
        )
    return Tags(entries)


def _running(models: Models, residents: Iterable[Resident]) -> Running:
    found = []
    for resident in residents:
        if resident.engine is None:
            continue
        files = models.descriptions.files(resident)
        found.append(
            RunningModel(
                tagged(resident.name),
                tagged(resident.name),
                resident.weights,
                resident.weights,
                _digest(resident, files),
                _details(resident, files),
                _expiry(resident),
                resident.longest or 0,
            )
        )
    return Running(found)


def _shown(name: str, resident: Resident, models: Models) -> Shown:
    found = models.descriptions.of(resident)
    files = found.model if found else None
    details = _details(resident, files)
    lines = {"num_ctx": details.context_length, **_defaults(found)}
    capabilities = tuple(_capabilities(found, resident.spec.config.embed_any))
    return Shown(
        license="",
        modelfile=f"FROM {name}",
        parameters="\n".join(f"{key:<30} {value}" for key, value in lines.items()),
        template=INFILL_TEMPLATE if "insert" in capabilities else TEMPLATE,
        details=details,
        model_info=_model_info(resident, files, details),
        capabilities=capabilities,
        modified_at=_time(resident.created),
    )


def _defaults(found: ModelDescription | None) -> dict[str, float]:
    """The model's own sampling parameters that have names here."""
    names = {"repetition_penalty": "repeat_penalty", "repetition_window": "repeat_last_n"}
    sampling = found.sampling if found else {}
    return {
        names.get(name, name): default.value
        for name, default in sampling.items()
        if default.source != "built in"
    }


def _capabilities(found: ModelDescription | None, embed_any: bool) -> Iterator[Capability]:
    if found is not None and (found.model.kind == "embedding" or embed_any):
        yield "embedding"
    if found is not None and found.model.kind == "embedding":
        return
    yield "completion"
    text = found.text if found else None
    if text is None:
        return
    if text.tools:
        yield "tools"
    if text.infill:
        yield "insert"
    if text.images:
        yield "vision"
    if text.reasoning:
        yield "thinking"


def _model_info(resident: Resident, files: LocalModel | None, details: Details) -> dict[str, Any]:
    info: dict[str, Any] = {
        "general.architecture": details.family,
        "general.basename": resident.name.rpartition("/")[2],
        "general.parameter_count": (files.parameters if files else None) or 0,
        f"{details.family}.context_length": details.context_length,
    }
    config = _config(files)
    for name, key in (("embedding_length", "hidden_size"), ("block_count", "num_hidden_layers")):
        value = config.get(key)
        if isinstance(value, int):
            info[f"{details.family}.{name}"] = value
    return info


def _config(files: LocalModel | None) -> dict[str, Any]:
    """The part of a model's configuration that is about text."""
    try:
        config = read_json(files.path / "config.json", files.name) if files else {}
    except ModelLoadError:
        config = {}
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _details(resident: Resident, files: LocalModel | None) -> Details:
    facts: Facts = files or Facts()
    family = facts.architecture or "unknown"
    return Details(
        parent_model="",
        format="safetensors",
        family=family,
        families=(family,),
        parameter_size=_count_text(facts.parameters),
        quantization_level=str(facts.quantization or facts.dtype or "unknown"),
        context_length=resident.longest or facts.context or 0,
    )


def _count_text(parameters: int | None) -> str:
    """A number of parameters, as 4.0B or 620M."""
    if parameters is None:
        return "unknown"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)


def _digest(resident: Resident, files: LocalModel | None) -> str:
    """A SHA-256 that changes with what the files say; of the weights it would take minutes."""
    said = [resident.name, resident.created]
    said += [files.revision, files.size, files.weights, files.parameters] if files else []
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _expiry(resident: Resident) -> str:
    """When a model is unloaded, if nobody uses it before."""
    until = resident.idle_until()
    left = math.inf if until is None else until - time.monotonic()
    return NEVER if left > FOR_GOOD else _time(time.time() + left)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
