"""A model on this machine, as its files describe it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from budmlx.engine.load.library.kv_size import KVLayout

Place = Literal["models-dir", "hub", "lm-studio", "path"]
"""Where a model was found: a directory of `--models-dir`, the hub's cache, a folder of LM Studio's,
or a path that somebody named."""

Kind = Literal["chat", "embedding", "draft", "unknown"]


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are quantized. bits: of most weights. group_size: weights that share a scale.

    method: `affine` is MLX's own; others are formats such as `mxfp4`, `awq` or `gptq`.
    """

    bits: int | None
    group_size: int | None
    method: str

    def __str__(self) -> str:
        if self.bits is None:
            return self.method
        return f"{self.bits} bit" if self.method == "affine" else f"{self.bits} bit {self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the files of a model's directory say.

    size: bytes of its files. weights: bytes of its tensors; 0 if their headers cannot be read.
    parameters: numbers before quantization; None if unknown. dtype: of most weights that are not
    packed, as safetensors writes it, such as `BF16`. architecture: the `model_type`, empty if it
    has none. context: tokens; None where the model names no limit. kv: what it keeps of tokens;
    None if unknown. complete: all files that loading needs are there and whole. problem: why it
    cannot be served, a sentence; empty if it can.
    """

    size: int = 0
    weights: int = 0
    parameters: int | None = None
    dtype: str = ""
    architecture: str = ""
    quantization: Quantization | None = None
    context: int | None = None
    kv: KVLayout | None = None
    kind: Kind = "unknown"
    complete: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel(Facts):
    """A model on this machine. name: what requests call it, unique in a library.

    path: its directory. revision: the commit of a hub's snapshot, else empty. also: directories of
    further copies with the same name, which are not used.
    """

    name: str
    path: Path
    place: Place
    revision: str = ""
    also: tuple[Path, ...] = ()

    @classmethod
    def of(cls, facts: Facts, **own: Any) -> Self:
        """A model with these facts. own: the other fields."""
        return cls(**{field.name: getattr(facts, field.name) for field in fields(Facts)}, **own)

    @property
    def servable(self) -> bool:
        """Whether it can be loaded and asked, as far as its files tell."""
        return not self.problem

    def as_json(self) -> dict[str, Any]:
        """All that is known, for JSON."""
        values = {**asdict(self), "path": str(self.path), "also": [str(each) for each in self.also]}
        first = ("name", "place", "path", "revision")
        rest = {key: value for key, value in values.items() if key not in (*first, "kv")}
        return {**{key: values[key] for key in first}, "servable": self.servable, **rest}
