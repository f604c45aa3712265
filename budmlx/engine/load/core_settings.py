"""Core settings: the message that a core gets before it loads a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from budmlx import logs
from budmlx.config import Config, adapter_paths, size_or_share
from budmlx.engine.images.images import Images
from budmlx.engine.load.directory import is_bare
from budmlx.engine.load.draft_model import draft_model_settings
from budmlx.engine.load.machines import read_machines
from budmlx.engine.load.sentence_transformers import EmbeddingFiles
from budmlx.engine.load.splitting import refuse_what_cannot_be_split
from budmlx.plugins.manager import Plugins
from budmlx.plugins.vision import ModelFiles
from budmlx.protocol import AdapterSource, CoreSettings, KVStoreSettings, PluginTarget


def core_settings(
    files: ModelFiles,
    name: str,
    config: Config,
    plugins: Plugins,
    images: Images,
    token_decoder: str,
    embedding: EmbeddingFiles | None = None,
) -> CoreSettings:
    """Settings for the model in `files`, which is called `name`.

    token_decoder: the decoder that replaces the one of tokenizer.json, as JSON, or empty.
    embedding: how the model makes vectors, if it does.

    Raises:
        ModelLoadError: its draft model cannot be used.
        ConfigError: its draft model cannot be; or the model is to be split over ranks, and
            something else that is set cannot be.
    """
    machines = read_machines(config)
    ranks = config.ranks if machines is None else len(machines.each)
    if ranks > 1:
        refuse_what_cannot_be_split(config, name, images, embedding)
    loader = plugins.loader(files.model_type)
    return CoreSettings(
        model_path=files.path,
        model_name=name,
        memory_limit=config.memory_limit and int(config.memory_limit),
        wired=config.wired,
        max_rows=config.max_rows,
        prefill_chunk=None if config.prefill_chunk == "auto" else config.prefill_chunk,
        stream_slowdown=config.stream_slowdown,
        speculation=0 if config.speculation == "off" else config.speculation,
        draft_model=draft_model_settings(
            Path(files.path), name, config, config.models_dir, plugins
        ),
        kv_bits=config.kv_bits,
        prefix_cache=size_or_share(config.prefix_cache),
        kv_store=_kv_store(config, salt=plugins.digest if loader or images.target else ""),
        loader=PluginTarget(plugin=loader.plugin, core=loader.value.core) if loader else None,
        vision=images.target,
        plugins=[*_targets(plugins, "sampler"), *_targets(plugins, "logits processor")],
        warmup=config.warmup != "off",
        log_level=logs.chosen(),
        log_format=config.log_format,
        sessions=[str(Path(path).expanduser().absolute()) for path in config.session],
        adapters=[AdapterSource(path) for path in adapter_paths(config.adapter).values()],
        token_decoder=token_decoder,
        embedding=None if embedding is None else embedding.settings,
        generates=embedding is None or embedding.chats,
        bare=embedding is not None and is_bare(Path(files.path)),
        machines=machines,
        parallel=config.parallel,
        ranks=ranks,
    )


def _targets(plugins: Plugins, kind: str) -> Iterator[PluginTarget]:
    """The factories of all samplers, or of all logits processors."""
    for name, owned in plugins.named(f"add_{kind.replace(' ', '_')}s").items():
        yield PluginTarget(
            plugin=owned.plugin,
            core=owned.value.core,
            what=f"{kind} {name}",
            required=plugins.required(owned.plugin),
        )


def _kv_store(config: Config, *, salt: str) -> KVStoreSettings | None:
    if config.kv_store is None:
        return None
    limit = int(config.kv_store_size)
    return KVStoreSettings(directory=config.kv_store, limit=limit, salt=salt)
