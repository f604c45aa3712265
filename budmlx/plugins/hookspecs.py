"""Hook specifications: all functions that a plugin may implement.

A plugin is a module (or an object) with functions marked `@budmlx.hookimpl` that have the names
below; each takes the arguments that it wants. `config` has all settings of the start. The entry
point group is `budmlx`. The prefix tells the mode: of `provide_` the first result that is not None
is used, of `add_` all results are, `on_` only informs. Plugins handed to `Engine.load` come first,
then those that the configuration names, then installed ones by name, then what budmlx ships.

The ring says where the result of a hook runs: core (the process that owns MLX), engine, server or
cli. Whatever a result of a hook raises, or returns wrongly, fails the request at hand alone, with
`plugin_error`. MLX may be used in the core only, on the calling thread, until the call returns.
"""

# The bodies are empty: pluggy reads names, arguments and docstrings.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import pluggy

from budmlx.config import Config
from budmlx.plugins.parsing import ModelTraits, ReasoningParserSpec, ToolParserSpec
from budmlx.plugins.specs import (
    CommandSpec,
    LogitsProcessorSpec,
    MessageTransform,
    OutputFilterFactory,
    RequestRecord,
    ResponseCache,
    Route,
    SamplerSpec,
)
from budmlx.plugins.vision import (
    ModelFiles,
    ModelLoaderSpec,
    VisionEncoderSpec,
    VisionPreprocessorSpec,
)

Ring = Literal["core", "engine", "server", "cli"]
RINGS: dict[str, Ring] = {}
"""Every hook, and the ring in which it acts."""

_Hook = TypeVar("_Hook", bound=Callable[..., object])


def _hook(ring: Ring, *, firstresult: bool = False) -> Callable[[_Hook], _Hook]:
    def mark(function: _Hook) -> _Hook:
        RINGS[function.__name__] = ring
        return pluggy.HookspecMarker("budmlx")(function, firstresult=firstresult)

    return mark


@_hook("engine", firstresult=True)
def provide_response_cache(config: Config) -> ResponseCache | None:
    """Open the cache that keeps finished replies. Called once when an engine is loaded. A cache
    that fails or hangs costs only the caching: requests are computed."""


@_hook("core")
def add_samplers(config: Config) -> Iterable[SamplerSpec]:
    """Offer ways to draw tokens, which requests choose by name with options. A sampler is
    called once per step for all rows that chose it."""


@_hook("core")
def add_logits_processors(config: Config) -> Iterable[LogitsProcessorSpec]:
    """Offer ways to change logits by what was generated so far, which requests choose by name
    with options. They run in the order of the request, before sampling."""


@_hook("engine", firstresult=True)
def provide_tool_parser(name: str, model: ModelTraits, config: Config) -> ToolParserSpec | None:
    """Say how a model writes tool calls. Called once when an engine is loaded. name: what the
    setting `tool_parser` says; `auto` means that `model` decides. None leaves it to others."""


@_hook("engine", firstresult=True)
def provide_reasoning_parser(
    name: str, model: ModelTraits, config: Config
) -> ReasoningParserSpec | None:
    """Say how a model writes its reasoning; see `provide_tool_parser`. The setting is
    `reasoning_parser`."""


@_hook("engine", firstresult=True)
def provide_vision_preprocessor(
    name: str, model: ModelFiles, config: Config
) -> VisionPreprocessorSpec | None:
    """Say how pictures get into the prompts of a model: as text, or as arrays for an encoder. See
    `provide_tool_parser`; the setting is `vision_preprocessor`."""


@_hook("core", firstresult=True)
def provide_vision_encoder(model: ModelFiles, config: Config) -> VisionEncoderSpec | None:
    """Say what turns the arrays of the preprocessor into embeddings for this model. A picture
    is encoded once, however many requests show it."""


@_hook("core")
def add_model_loaders(config: Config) -> Iterable[ModelLoaderSpec]:
    """Load models of types that mlx-lm does not know, or gets wrong: the classes come from the
    plugin, weights and quantization are mlx-lm's work. They win over mlx-lm's own classes."""


@_hook("engine")
def add_message_transforms(config: Config) -> Iterable[MessageTransform]:
    """Rewrite the messages of every chat before the template. Each transform gets what the
    one before it returned; `InvalidRequestError` from it refuses the request with 400."""


@_hook("engine")
def add_output_filters(config: Config) -> Iterable[OutputFilterFactory]:
    """See the text of every reply before the client does, piece by piece, to redact it, hold
    it back, or end it with `content_filter`. Each filter gets what the one before it showed."""


@_hook("engine")
def on_request_finished(record: RequestRecord, config: Config) -> None:
    """Learn how a request ended, for logs and metrics. Called once for each request, refused ones
    too, in order, on a thread of its own; one that lags far behind misses some."""


@_hook("server")
def add_routes(config: Config) -> Iterable[Route]:
    """Serve further paths: `aiohttp.web.get(path, handler)` and the like. They need the API key
    as all others do, and cannot replace a route of the server's."""


@_hook("cli")
def add_commands(config: Config) -> Iterable[CommandSpec]:
    """Add commands to the command line of `budmlx`. Their modules are imported when they are
    run; a name that budmlx uses itself is not replaced."""
