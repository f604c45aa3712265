"""Sessions: the KV of one long prompt in a file, to begin with it another time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.kv import arrays_of
from budmlx.core.kv_identity import layout_of, model_digest, name_of
from budmlx.core.model import Model
from budmlx.core.row import RowError

FORMAT = "budmlx-session-1"
IDS = "ids"


class SessionError(RowError):
    """A session cannot be saved or loaded."""

    code = "session_error"


@dataclass(frozen=True, slots=True)
class Session:
    """KV of `ids`: the arrays of all layers, each with the tokens on axis 2."""

    ids: list[int]
    arrays: list[mx.array]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


def save_session(model: Model, ids: Sequence[int], cache: Sequence[Any], path: Path) -> None:
    """Write the first `len(ids)` tokens of a row's cache; the file is there whole or not at all.

    Raises:
        SessionError: the model's caches hold more than tokens, or the file cannot be written.
    """
    if model.info.needs_checkpoints:
        raise SessionError("the caches of this model cannot be saved")
    kept = [array[..., : len(ids), :] for entry in cache for array in arrays_of(entry)]
    arrays = {f"{number:05d}": mx.contiguous(array) for number, array in enumerate(kept)}
    arrays[IDS] = mx.array(np.asarray(ids, np.int64))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.safetensors")
    metadata = {"format": FORMAT, "model": model_digest(Path(model.info.path))}
    try:
        mx.save_safetensors(str(draft), arrays, metadata)
        draft.replace(path)
    except (OSError, RuntimeError) as error:
        draft.unlink(missing_ok=True)
        raise SessionError(f"{path} cannot be written: {error}") from error


def load_session(model: Model, path: Path) -> Session:
    """Read a session of this very model.

    Raises:
        SessionError: it is none, it is damaged, or another model made it.
    """
    try:
        arrays, metadata = mx.load(str(path), format="safetensors", return_metadata=True)
        if metadata.get("format") != FORMAT:
            raise SessionError(f"{path} is no session")
        if metadata.get("model") != model_digest(Path(model.info.path)):
            raise SessionError(
                f"{path} was made by another model, or by other versions of the libraries; "
                "save it again"
            )
        ids = arrays.pop(IDS).tolist()
        ordered = [arrays[name] for name in sorted(arrays)]
        mx.eval(ordered)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise SessionError(f"{path} cannot be read: {error}") from error
    layout = layout_of(model)
    made = [(name_of(array), tuple(array.shape)) for array in ordered]
    if layout is None or made != [(spec.dtype, spec.of(len(ids))) for spec in layout]:
        raise SessionError(f"{path} does not fit this model's caches; save it again")
    return Session(ids, ordered)
