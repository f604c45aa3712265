"""Facts: what the files of a model's directory say, without its weights."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from budmlx.engine.load.directory import (
    INCOMPLETE,
    Tensor,
    check_model_dir,
    known_architectures,
    read_json,
)
from budmlx.engine.load.library.kv_size import KVLayout
from budmlx.engine.load.library.local_model import Facts, Kind, Quantization
from budmlx.errors import ModelLoadError
from budmlx.model_context import context_of

QUANTIZED = {"affine", "awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt"} | {
    "mxfp4",
    "mxfp8",
    "nvfp4",
}
"""Ways of quantization that mlx-lm reads."""
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tiktoken.model",
)
EMBEDDING_FILES = {"modules.json", "config_sentence_transformers.json", "1_Pooling"}
TEMPLATE_FILES = {"chat_template.jinja", "chat_template.json", "additional_chat_templates"}
ENCODER = re.compile("bert|mpnet|electra")
DRAFT = re.compile("eagle|medusa|dflash|draft|mtp", re.IGNORECASE)
# A directory of a model has few folders, and those few files.
_DEPTH = 2

Signature = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of change of a directory's files."""


def signature(path: Path) -> Signature:
    """What changes whenever a file of the directory does. Raises OSError."""
    return tuple(_files(path, _DEPTH))


def read_facts(path: Path, name: str, seen: Signature, own: Collection[str] = ()) -> Facts:
    """What the files in `path` say of the model that messages call `name`; it never fails.

    seen: the signature of the directory. own: architectures that plugins load.
    """
    names = {file.partition("/")[0] for file, _, _ in seen}
    problem, complete, tensors = "", True, dict[str, Tensor]()
    try:
        tensors = check_model_dir(path, name, own)
    except ModelLoadError as error:
        problem, complete = error.message, error.code != INCOMPLETE
    except OSError as error:
        problem = f"{name} cannot be read: {error.strerror}."
    config = _config(path)
    kind = _kind(path, config, names)
    quantization = _quantization(config)
    if not problem:
        if kind == "draft":
            words = "is a draft model: it makes another one faster, and answers nothing by itself."
        else:
            words = _unfit(config, names, own)
        problem = f"{name} {words}" if words else ""
        complete = complete and any(map(_makes_a_tokenizer, names))
    dtype = _dtype(tensors)
    return Facts(
        size=sum(size for _, size, _ in seen),
        weights=_bytes(tensors),
        parameters=_parameters(tensors, quantization),
        dtype=dtype,
        architecture=_architecture(config),
        quantization=quantization,
        context=context_of(config),
        kv=KVLayout.of(config, dtype),
        kind=kind,
        complete=complete,
        problem=problem,
    )


def _files(path: Path, depth: int, inside: str = "") -> Iterator[tuple[str, int, int]]:
    """The files, without those of hidden folders. Links to files are followed, to folders not."""
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if depth and not entry.name.startswith("."):
                yield from _files(path / entry.name, depth - 1, f"{name}/")
            continue
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere
            yield name, 0, 0
        else:
            yield name, status.st_size, status.st_mtime_ns


def _config(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path / "config.json", path.name)
    except ModelLoadError:
        return {}


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    """A positive whole number, else None."""
    return value if isinstance(value, int) and value is not True and value > 0 else None


def _architecture(config: Mapping[str, Any]) -> str:
    kind = config.get("model_type")
    return kind if isinstance(kind, str) else ""


def _kind(path: Path, config: Mapping[str, Any], names: Collection[str]) -> Kind:
    classes = config.get("architectures")
    if isinstance(classes, list) and any(DRAFT.search(str(each)) for each in classes):
        return "draft"
    if EMBEDDING_FILES.intersection(names) or ENCODER.search(_architecture(config)):
        return "embedding"
    if TEMPLATE_FILES.intersection(names):
        return "chat"
    try:
        tokenizer = read_json(path / "tokenizer_config.json", path.name)
    except ModelLoadError:
        return "unknown"
    return "chat" if tokenizer.get("chat_template") else "unknown"


def _quantization(config: Mapping[str, Any]) -> Quantization | None:
    own = _object(config, "quantization")
    if own:
        method = str(own.get("mode", "affine"))
        return Quantization(_count(own.get("bits")), _count(own.get("group_size")), method)
    other = _object(config, "quantization_config") or _object(
        _object(config, "text_config"), "quantization_config"
    )
    if not other:
        return None
    method = str(other.get("quant_method", "unknown"))
    bits = _count(other.get("bits")) or (4 if "fp4" in method else 8 if "fp8" in method else None)
    return Quantization(bits, _count(other.get("group_size")), method)


def _unfit(config: Mapping[str, Any], names: Collection[str], own: Collection[str]) -> str:
    """Why a whole model cannot be served, to follow its name; empty if it can."""
    architecture = _architecture(config)
    if architecture not in own and architecture not in known_architectures():
        if ENCODER.search(architecture):
            return (
                f"is an encoder ({architecture}), which mlx-lm cannot run; the plugin "
                "budmlx-encoders may."
            )
        return (
            f"has an architecture that mlx-lm lacks: {architecture!r}. An update of mlx-lm may "
            "bring it, or a plugin may load it."
        )
    quantization = _quantization(config)
    if quantization is not None and quantization.method not in QUANTIZED:
        return (
            f"is quantized in a way that mlx-lm cannot read ({quantization.method}). Look for an "
            "MLX version of it, or convert the original."
        )
    if not any(map(_makes_a_tokenizer, names)):
        return "has no tokenizer: there is no tokenizer.json. Download the model again."
    return ""


def _makes_a_tokenizer(name: str) -> bool:
    return name in TOKENIZERS or name.endswith(".tiktoken")


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(each["data_offsets"][1] - each["data_offsets"][0] for each in tensors.values())


def _parameters(tensors: Mapping[str, Tensor], quantization: Quantization | None) -> int | None:
    """The number of weights; a packed one counts as what it stands for, scales do not."""
    group = quantization.group_size if quantization else None
    count = 0
    try:
        for name, tensor in tensors.items():
            stem, _, part = name.rpartition(".")
            if part in ("scales", "biases") and f"{stem}.weight" in tensors:
                continue
            scales = tensors.get(f"{stem}.scales") if part == "weight" else None
            if scales is None:
                count += math.prod(tensor["shape"])
            elif group is None:
                return None
            else:
                count += math.prod(scales["shape"]) * group
    except (TypeError, KeyError):
        return None
    return count or None


def _dtype(tensors: Mapping[str, Tensor]) -> str:
    """The dtype of most bytes that are not packed."""
    found: Counter[str] = Counter()
    for tensor in tensors.values():
        begin, end = tensor["data_offsets"]
        if str(tensor["dtype"]) not in ("U32", "U8", "I32"):
            found[str(tensor["dtype"])] += end - begin
    return max(found, key=lambda each: found[each], default="")
