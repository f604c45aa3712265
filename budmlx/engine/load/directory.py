"""Checks of a model directory: whether it can be loaded safely and completely.

Nothing is imported or executed here: JSON and the headers of the weight files are read.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from budmlx.errors import ModelLoadError
from budmlx.plugins.vision import ModelFiles

INDEX = "model.safetensors.index.json"
INCOMPLETE = "model_incomplete"
"""The code of errors about files that are missing or damaged: a download would mend them."""
UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What names of files end in that loading may read.
READ = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors"})
Tensor = Mapping[str, Any]
"""What a header says of a tensor: its `dtype`, `shape` and `data_offsets`."""
# The longest header that the safetensors library accepts.
MAX_HEADER = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def check_model_dir(path: Path, name: str, own: Collection[str] = ()) -> dict[str, Tensor]:
    """Refuse what could not run, would need code from the repository, or is damaged.

    name: what messages call the model. own: architectures that plugins load. Returns what the
    headers say of its tensors, by name.

    Raises:
        ModelLoadError: names the file at fault and what to do about it; its code is `INCOMPLETE`
            where files are missing or damaged.
    """
    check_links(path, name)
    if not (path / "config.json").exists():
        raise ModelLoadError(f"{name} {_instead_of_a_model(path)}")
    config = read_json(path / "config.json", name)
    _check_code(config, name, own)
    tensors: dict[str, Tensor] = {}
    for shard in _listed_shards(path, name):
        tensors |= check_safetensors(path / shard, name)
    return tensors


def is_bare(path: Path) -> bool:
    """Whether the weights of a model that was checked are those of its body, without prefix."""
    shards = (path / shard for shard in _listed_shards(path, path.name))
    return any(
        name.startswith("embed_tokens.")
        for shard in shards
        for name in check_safetensors(shard, path.name)
    )


def check_links(path: Path, name: str, advice: str = "Download the model again.") -> None:
    """Refuse links to files that are gone, such as blobs of the hub's cache that were deleted.

    Raises:
        ModelLoadError: names the files; advice follows.
    """
    dead = sorted(
        file.name
        for file in path.iterdir()
        if file.suffix in READ and file.is_symlink() and not file.exists()
    )
    if dead:
        links = "their links lead" if len(dead) > 1 else "its link leads"
        message = f"{name}: {some(dead)} missing ({links} nowhere). {advice}"
        raise ModelLoadError(message, code=INCOMPLETE)


def model_files(path: Path) -> ModelFiles:
    """The description of a model directory for plugins. Raises ModelLoadError."""
    optional = path / "preprocessor_config.json"
    preprocessor = read_json(optional, path.name) if optional.is_file() else {}
    return ModelFiles(str(path), read_json(path / "config.json", path.name), preprocessor)


def check_safetensors(path: Path, name: str) -> dict[str, Tensor]:
    """Compare the header of a weight file with its size; the weights are not read.

    Returns what the header says of each tensor.

    Raises:
        ModelLoadError: the file is cut short, is something else, or contradicts itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            if kind := _impostor(start):
                raise ModelLoadError(f"{name}: {path.name} is {kind}.", code=INCOMPLETE)
            raise _damaged(path, name, f"it ends inside its header, after {size:,} bytes")
        file.seek(8)
        header = file.read(length)
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        ends = [_tensor_end(tensor) for tensor in tensors.values()]
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise _damaged(path, name, "its header is not readable") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _damaged(path, name, f"it has {size:,} bytes, its header promises {expected:,}")
    return {str(key): tensor for key, tensor in tensors.items()}


def _tensor_end(tensor: dict[str, Any]) -> int:
    """The offset after a tensor's bytes. Raises ValueError when shape and offsets differ."""
    begin, end = tensor["data_offsets"]
    bits = BITS.get(tensor["dtype"])
    if bits and (end - begin) * 8 != math.prod(tensor["shape"]) * bits:
        raise ValueError("offsets contradict the shape")
    return int(end)


def _damaged(path: Path, name: str, reason: str) -> ModelLoadError:
    # In the hub's cache a file that is fetched again would be a link to the damaged one.
    file = path.resolve() if path.is_symlink() else "the file"
    return ModelLoadError(
        f"{name}: {path.name} is damaged: {reason}. Delete {file} and download it again.",
        code=INCOMPLETE,
    )


def _impostor(start: bytes) -> str | None:
    """The real content of a file that pretends to hold weights, in words."""
    head = start.lstrip().lower()
    if head.startswith(b"<"):
        return (
            "a web page instead of weights: the download was answered by a proxy or login page. "
            "Delete the file and download it again"
        )
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of weights. Run `git lfs pull` in its directory"
    return None


def _listed_shards(path: Path, name: str) -> list[str]:
    """The weight files that mlx-lm will read. Raises unless all and only these are there."""
    present = {file.name for file in path.glob("model*.safetensors")}
    if not (path / INDEX).is_file():
        if not present:
            raise ModelLoadError(f"{name} {no_weights(_names(path))}")
        return sorted(present)
    try:
        listed = {str(file) for file in read_json(path / INDEX, name)["weight_map"].values()}
    except (KeyError, AttributeError) as error:
        raise ModelLoadError(f"{name}: {INDEX} has no weight_map.") from error
    if outside := sorted(file for file in listed if not re.fullmatch(r"[\w.-]+", file)):
        raise ModelLoadError(f"{name}: {INDEX} names a file outside the model: {outside[0]!r}.")
    if missing := sorted(listed - present):
        raise ModelLoadError(
            f"{name}: {some(missing)} missing. Download the model again; finished files are kept.",
            code=INCOMPLETE,
        )
    if extra := sorted(present - listed):
        raise ModelLoadError(
            f"{name}: {some(extra)} not part of the model ({INDEX} does not list it) "
            "but would be loaded. Delete it or move it away."
        )
    return sorted(listed)


def some(files: list[str]) -> str:
    """The names of one or a few files, with the verb that goes with them."""
    rest = len(files) - 3
    return ", ".join(files[:3]) + (
        f" and {rest} more are" if rest > 0 else " are" if len(files) > 1 else " is"
    )


def _names(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()]


def _instead_of_a_model(path: Path) -> str:
    """Complete the sentence about a directory without config.json."""
    names = _names(path)
    if "adapter_config.json" in names:
        return "is an adapter, not a model of its own: it goes with the model it was trained on."
    if "model_index.json" in names:
        return "is a pipeline of several models, such as those that make pictures."
    if any(Path(name).suffix == ".gguf" for name in names):
        return no_weights(names)
    return "is not a model directory: it has no config.json."


def no_weights(files: Iterable[str]) -> str:
    """Advice about a model that has these files but no `model*.safetensors`."""
    suffixes = {Path(file).suffix for file in files}
    if suffixes & set(UNSAFE_WEIGHTS):
        return (
            "has its weights only in pickle files, which can run code when they are opened. "
            "Convert it once with `mlx_lm.convert --hf-path MODEL --mlx-path DIRECTORY` "
            "and use the directory, or look for a safetensors version."
        )
    if ".gguf" in suffixes:
        return "has GGUF weights, the format of llama.cpp. Look for an MLX or safetensors version."
    return "has no weights: there is no model*.safetensors file."


def _check_code(config: dict[str, Any], name: str, own: Collection[str]) -> None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or not re.fullmatch(r"[\w.-]+", kind):
        raise ModelLoadError(f"{name}: config.json has no usable model_type.")
    if config.get("model_file") is not None:
        raise ModelLoadError(
            f"{name} wants to run its own code ({str(config['model_file'])[:80]!r}), which "
            "budmlx never does. Look for a version that mlx-lm supports without it."
        )
    if config.get("auto_map") and kind not in own and kind not in known_architectures():
        raise ModelLoadError(
            f"{name} needs code from its repository: mlx-lm has no architecture {kind!r}. "
            "budmlx never runs such code; an update of mlx-lm may bring the architecture."
        )


@cache
def known_architectures() -> frozenset[str]:
    """Model types that mlx-lm knows, found without importing it (that would load MLX)."""
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.origin is None:
        return frozenset()
    root = Path(spec.origin).parent
    remapped: dict[str, str] = {}
    for node in ast.parse((root / "utils.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING":
            remapped = ast.literal_eval(node.value)
    return frozenset(file.stem for file in (root / "models").glob("*.py")) | remapped.keys()


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the model `name`. Raises ModelLoadError."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelLoadError(f"{name} is not a model directory: it has no {path.name}.") from error
    except OSError as error:
        raise ModelLoadError(f"{name}: cannot read {path.name}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{name}: {path.name} is not JSON. Delete it and download it again.", code=INCOMPLETE
        ) from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{name}: {path.name} does not hold a JSON object.")
    return value
