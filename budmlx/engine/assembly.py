"""Assembly: from a model directory and plugins to the pipeline that runs an engine's requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from budmlx.config import Config, ModelConfig, size_or_share
from budmlx.engine.embed.embeddings import EmbeddingPipeline
from budmlx.engine.embed.rerank import Ranker
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
from budmlx.engine.run.decisions import Decider
from budmlx.engine.run.pipeline import RequestPipeline, RowDispatcher
from budmlx.engine.run.predictions import speculates
from budmlx.engine.run.prompt_log import PromptLog
from budmlx.engine.run.rows import RequestWarnings, RowBuilder
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.model_identity import ModelIdentity
from budmlx.plugins.manager import Plugins
from budmlx.plugins.vision import ModelFiles
from budmlx.progress import Notice
from budmlx.types import ModelInfo, SamplingDefault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextParts:
    """The parts of a model that need its directory, but not its weights.

    defaults: the value of each sampling parameter. problems: what is wrong with them.
    """

    files: ModelFiles
    tokenizer: Tokenizer
    images: Images
    parsers: Parsers
    defaults: Mapping[str, SamplingDefault]
    problems: Sequence[str]

    @classmethod
    def of(cls, path: Path, config: ModelConfig, plugins: Plugins) -> Self:
        """Those of the model in `path`. Raises ModelLoadError, ConfigError."""
        tokenizer, files = Tokenizer.load(path), model_files(path)
        images = Images(plugins, tokenizer, files, config)
        parsers = Parsers.of(plugins, tokenizer, files.model_type, config)
        return cls(files, tokenizer, images, parsers, *sampling_defaults(path, config))

    def preparation(self, info: ModelInfo, config: ModelConfig, plugins: Plugins) -> Preparation:
        """What makes prompts of requests."""
        added = RequestDefaults(changed(self.defaults), config.system_prompt or "")
        return Preparation(plugins, self.tokenizer, self.parsers, self.images, info, added)

    def warnings(self, info: ModelInfo, plugins: Plugins, *, cached: bool) -> RequestWarnings:
        """What makes the warnings of requests. cached: there is a response cache."""
        filtered = bool(plugins.added("add_output_filters"))
        return RequestWarnings(
            self.parsers,
            info.vocab_size,
            filtered=filtered,
            cached=cached,
            sees=self.images.taken,
            drafting=speculates(info),
        )


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of an engine that its methods use."""

    tokenizer: Tokenizer
    parsers: Parsers
    pipeline: RequestPipeline
    embeddings: EmbeddingPipeline
    decider: Decider
    ranker: Ranker
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
    text = TextParts.of(path, config, plugins)
    for problem in text.problems:
        log.warning("%s: %s", name, problem)
    embedding, decoder = EmbeddingFiles.read(path, config), text.tokenizer.mended_decoder
    settings = core_settings(text.files, name, config, plugins, text.images, decoder, embedding)
    store = None if config.cache == "off" else plugins.response_cache(config)
    dispatcher = RowDispatcher(settings, config, notice)
    info = dispatcher.info
    tracker = ReuseTracker(
        text.tokenizer,
        info.context_length,
        enabled=size_or_share(config.prefix_cache) > 0,
        states=info.needs_checkpoints,
    )
    salt = f"{info.fingerprint} {ModelIdentity.read(path).listed()} {plugins.digest}"
    cache = ReplyCache(store, config, salt, plugins.limits.cache_seconds)
    rows = RowBuilder(info, plugins, text.parsers, tracker, shared=config.prefix_cache_shared)
    preparation = text.preparation(info, config, plugins)
    pipeline = RequestPipeline(preparation, cache, rows, dispatcher, tracker, plugins)
    if config.log_prompts:
        pipeline.prompt_log = PromptLog(text.tokenizer)
    embeddings = EmbeddingPipeline(embedding, text.tokenizer, dispatcher, plugins)
    decider = Decider(pipeline, text.tokenizer, plugins)
    return Assembly(
        text.tokenizer,
        text.parsers,
        pipeline,
        embeddings,
        decider,
        Ranker(embeddings, decider, info),
        text.warnings(info, plugins, cached=cache.enabled),
        text.defaults,
    )
