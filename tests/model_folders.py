"""Folders of models as the hub's cache and LM Studio lay them out, with weights of a few bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hub_server import Files, commit
from tests.safetensors_file import safetensors

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "max_position_embeddings": 4096,
}
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def model_files(config: Mapping[str, Any] = LLAMA, **more: bytes | None) -> dict[str, bytes]:
    """The files of a whole model. more: other contents, `__` for a dot; None leaves a file out."""
    files: dict[str, bytes | None] = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "model.safetensors": safetensors(),
    }
    files |= {name.replace("__", "."): content for name, content in more.items()}
    return {name: content for name, content in files.items() if content is not None}


def sharded_files() -> dict[str, bytes]:
    """The files of a whole model in two shards."""
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    return model_files(model__safetensors=None) | {
        INDEX: json.dumps(index).encode(),
        **{shard: safetensors(name=shard) for shard in SHARDS},
    }


def folder(path: Path, files: Files) -> Path:
    """A plain directory, as in LM Studio's `publisher/name`."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def snapshot(cache: Path, name: str, files: Files, ref: str | None = "main") -> Path:
    """A snapshot in the hub's cache: links to blobs that are named by their content.

    ref: the branch that names it; None for a commit alone.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    path = repository / "snapshots" / commit(files)
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = path / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + len(Path(file).parts) - 1), "blobs", blob.name))
    if ref is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(path.name)
    return path


def tree_list(path: Path, files: Files) -> None:
    """The list of a repository's files that huggingface_hub keeps beside a snapshot."""
    listed = {name: {"size": len(content), "blob_id": "0" * 40} for name, content in files.items()}
    trees = path.parent.parent / "trees"
    trees.mkdir(exist_ok=True)
    text = json.dumps({"format_version": 1, "files": listed})
    (trees / f"{path.name}.json").write_text(text)
