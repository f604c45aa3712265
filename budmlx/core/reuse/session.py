"""Sessions: the KV of one long prompt in a file, for later prompts that begin with it.

A file is like those of `disk.files`: its header follows from the model, the number of tokens and
the checksum of what comes after it, and a reader compares all of it.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import msgspec
import numpy as np

from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.model.memory import arrays_of
from budmlx.core.model.model import Model
from budmlx.core.reuse.disk.files import ArraySpec, Layout, header
from budmlx.core.reuse.disk.identity import layout_of, model_digest
from budmlx.core.row import RowError

FORMATS = "budmlx-session-"
FORMAT = f"{FORMATS}2"
TOKENS = ArraySpec("I64", (1, 1, 1))
UNFIT = "the caches of this model cannot be saved"
# Bytes; what says that its header is longer is no session.
MAX_HEADER = 16 * 2**20
# Bytes that are read at once to be checked.
CHUNK = 2**20


class SessionError(RowError):
    """A session cannot be saved or loaded."""

    code = "session_error"


@dataclass(frozen=True, slots=True)
class Session:
    """KV of `ids`: the arrays of all layers, each [1, heads, tokens, ...].

    adapter: the digest of the one that it was computed with; empty for none.
    """

    ids: list[int]
    arrays: list[mx.array]
    adapter: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)


class _Head(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__")


def save_session(
    model: Model, ids: Sequence[int], cache: Sequence[Any], path: Path, adapter: str = ""
) -> None:
    """Write the first `len(ids)` tokens of a row's cache; the file is there whole or not at all.

    adapter: the digest of the row's.

    Raises:
        SessionError: the model's caches hold more than tokens, there are none, or the file
            cannot be written.
    """
    if model.info.needs_checkpoints or (kv := layout_of(model)) is None:
        raise SessionError(UNFIT)
    if not ids:
        raise SessionError("a prompt of one token has nothing to save")
    layout, digest = (TOKENS, *kv), model_digest(Path(model.info.path))
    arrays = (array[..., : len(ids), :] for entry in cache for array in arrays_of(entry))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            # Its length is that of the final one, which takes its place.
            file.write(_header(digest, adapter, layout, len(ids), 0))
            data = np.asarray(ids, np.int64).data
            file.write(data)
            checksum = zlib.crc32(data)
            for array in arrays:
                data = memoryview(mx.contiguous(array))
                file.write(data)
                checksum = zlib.crc32(data, checksum)
            file.seek(0)
            file.write(_header(digest, adapter, layout, len(ids), checksum))
        draft.replace(path)
    except (OSError, RuntimeError) as error:
        draft.unlink(missing_ok=True)
        if is_device_fault(error):
            raise
        raise SessionError(f"{path} cannot be written: {error}") from error


def load_session(
    model: Model, path: Path, limit: int, adapters: Collection[str] = ("",)
) -> Session:
    """Read a session of this very model and one of these adapters, of at most `limit` bytes.

    Raises:
        SessionError: the file is no session, is damaged, or was made by another model.
    """
    kv = layout_of(model)
    if kv is None or not path.is_file():
        raise SessionError(f"{path} cannot be read: {'there is no such file' if kv else UNFIT}")
    layout, digest = (TOKENS, *kv), model_digest(Path(model.info.path))
    each = sum(spec.nbytes(1) for spec in layout)
    try:
        with path.open("rb") as file:
            start, adapter = _start(digest, adapters, path, file)
            tokens, rest = divmod(path.stat().st_size - len(start), each)
            head = partial(_header, digest, adapter, layout, tokens)
            if rest or tokens < 1 or len(start) != len(head(0)):
                raise _damaged(path)
            if tokens * each > limit:
                raise SessionError(f"{path} needs more memory than prefix_cache may take")
            if start != head(_checksum(file)):
                raise _damaged(path)
        arrays = mx.load(str(path), format="safetensors")
        ids, *kept = (arrays[str(number)] for number in range(len(layout)))
        mx.eval(kept)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if is_device_fault(error):
            raise
        raise SessionError(f"{path} cannot be read: {error}") from error
    return Session(ids.reshape(-1).tolist(), kept, adapter)


def _start(digest: str, adapters: Collection[str], path: Path, file: BinaryIO) -> tuple[bytes, str]:
    """The header of a session of this model and version, and its adapter. Raises SessionError."""
    size = file.read(8)
    text = file.read(min(int.from_bytes(size, "little"), MAX_HEADER))
    try:
        metadata = msgspec.json.decode(text, type=_Head).metadata
    except (ValueError, RecursionError):
        metadata = {}
    format_ = metadata.get("format", "")
    if not format_.startswith(FORMATS):
        raise SessionError(f"{path} is no session, or is damaged; save it again")
    if format_ != FORMAT:
        raise SessionError(f"{path} was saved by another version of budmlx; save it again")
    if metadata.get("model") != digest:
        raise SessionError(
            f"{path} was made by another model, or by other versions of the libraries; "
            "save it again"
        )
    if (adapter := metadata.get("adapter", "")) not in adapters:
        was = "another adapter" if adapter else "no adapter"
        raise SessionError(f"{path} was saved with {was}; load it with the one it was saved with")
    return size + text, adapter


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the rest of a file, read in chunks."""
    chunk = memoryview(bytearray(CHUNK))
    checksum = 0
    while count := file.readinto(chunk):  # type: ignore[attr-defined]
        checksum = zlib.crc32(chunk[:count], checksum)
    return checksum


def _header(digest: str, adapter: str, layout: Layout, tokens: int, checksum: int) -> bytes:
    metadata = {"format": FORMAT, "model": digest, "crc32": f"{checksum:08x}"}
    if adapter:
        metadata["adapter"] = adapter
    return header(metadata, layout, tokens)


def _damaged(path: Path) -> SessionError:
    return SessionError(f"{path} is damaged; save it again")
