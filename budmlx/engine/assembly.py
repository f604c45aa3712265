"""Assembly: from a model directory and plugins to the pipeline that runs an engine's requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from budmlx.config import Config, size_or_share
from budmlx.engine.embed.embeddings import EmbeddingPipeline
from budmlx.engine.images.images import Images
from budmlx.engine.load.core_settings import core_settings
from budmlx.engine.load.directory import model_files
from budmlx.engine.load.generation_config import changed, sampling_defaults
from budmlx.engine.load.sentence_transformers import EmbeddingFiles
from budmlx.engine.reply.parsers import Parsers
from budmlx.engine.request.defaults import RequestDefaults
from budmlx.engine.request.prepare import Preparation
from budmlx.engine.reuse.response_cache import ReplyCache
from budmlx.engine.reuse.tracker import ReuseTracker
from budmlx.engine.run.pipeline import RequestPipeline, RowDispatcher
from budmlx.engine.run.rows import RequestWarnings, RowBuilder
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.model_identity import ModelIdentity
from budmlx.plugins.manager import Plugins
from budmlx.progress import Notice
from budmlx.types import SamplingDefault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of an engine that its methods use."""

    tokenizer: Tokenizer
    parsers: Parsers
    pipeline: RequestPipeline
    embeddings: EmbeddingPipeline
    warnings: RequestWarnings
    defaults: Mapping[str, SamplingDefault]


def assemble(
    path: Path, name: str, config: Config, plugins: Plugins, notice: Notice | None = None
) -> Assembly:
    """Load the model in `path`, which is called `name`.

    notice: called with words while it loads, on any thread.

    Raises:
        ModelLoadError: the model cannot be used.
        ConfigError: a plugin that the configuration names cannot be used with it.
    """
    tokenizer = Tokenizer.load(path)
    defaults, problems = sampling_defaults(path, config)
    for problem in problems:
        log.warning("%s: %s", name, problem)
    files = model_files(path)
    images = Images(plugins, tokenizer, files, config)
    embedding = EmbeddingFiles.read(path, config)
    settings = core_settings(
        files, name, config, plugins, images, tokenizer.mended_decoder, embedding
    )
    store = None if config.cache == "off" else plugins.response_cache(config)
    parsers = Parsers.of(plugins, tokenizer, files.model_type, config)
    dispatcher = RowDispatcher(settings, config, notice)
    info = dispatcher.info
    tracker = ReuseTracker(
        tokenizer,
        info.context_length,
        enabled=size_or_share(config.prefix_cache) > 0,
        states=info.needs_checkpoints,
    )
    salt = f"{info.fingerprint} {ModelIdentity.read(path).listed()} {plugins.digest}"
    cache = ReplyCache(store, config, salt, plugins.limits.cache_seconds)
    rows = RowBuilder(info, plugins, parsers, tracker, shared=config.prefix_cache_shared)
    added = RequestDefaults(changed(defaults), config.system_prompt or "")
    preparation = Preparation(plugins, tokenizer, parsers, images, info, added)
    return Assembly(
        tokenizer,
        parsers,
        RequestPipeline(preparation, cache, rows, dispatcher, tracker, plugins),
        EmbeddingPipeline(embedding, tokenizer, dispatcher, plugins),
        RequestWarnings(
            parsers,
            info.vocab_size,
            filtered=bool(plugins.added("add_output_filters")),
            cached=cache.enabled,
            sees=images.taken,
        ),
        defaults,
    )
