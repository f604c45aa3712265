"""Files of KV blocks, each with the keys and values of some tokens, in the safetensors format.

A file's header follows from its name, the model's layout and the checksum of its payload, so a
reader computes what must be there and compares: it believes nothing that a file says of itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
SUFFIX = ".safetensors"
TEMPORARY = ".tmp"

# Bytes of a number, by safetensors' names of types.
SIZES = {"I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U16": 2, "U8": 1}


class BadFileError(Exception):
    """A file is not what its name says."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One of the arrays that are stored for each token.

    dtype: a key of `SIZES`. shape: [rows, heads, 1, width], that of one token.
    """

    dtype: str
    shape: tuple[int, ...]

    def of(self, tokens: int) -> tuple[int, ...]:
        """The shape for this many tokens."""
        return (*self.shape[:2], tokens, *self.shape[3:])

    def nbytes(self, tokens: int) -> int:
        """Bytes for this many tokens."""
        size = SIZES[self.dtype] * tokens
        for length in self.shape:
            size *= length
        return size


Layout = tuple[ArraySpec, ...]
"""All arrays of a block, in order."""


def write(folder: Path, key: str, layout: Layout, tokens: int, arrays: Sequence[bytes]) -> int:
    """Write the block `key` so that it is there whole or not at all; returns its bytes.

    Nothing is flushed to the device: what a power failure spoils fails its checksum.

    Raises:
        OSError: nothing was written.
    """
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array, checksum)
    head = _header(key, layout, tokens, checksum)
    path = folder / f"{key}.{secrets.token_hex(4)}{TEMPORARY}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(head)
            for array in arrays:
                file.write(array)
            file.flush()
            os.replace(path, folder / f"{key}{SUFFIX}")
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return len(head) + sum(map(len, arrays))


def read(folder: Path, key: str, layout: Layout, tokens: int) -> list[memoryview]:
    """The arrays' bytes of the block `key`, verified.

    Raises:
        BadFileError: the file is not this block.
        OSError: it cannot be read.
    """
    path = folder / f"{key}{SUFFIX}"
    head = len(_header(key, layout, tokens, 0))
    size = head + sum(spec.nbytes(tokens) for spec in layout)
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise BadFileError
    with open(path, "rb", opener=no_follow) as file:
        data = memoryview(file.read(size))
    if len(data) != size or data[:head] != _header(key, layout, tokens, zlib.crc32(data[head:])):
        raise BadFileError
    arrays = []
    begin = head
    for spec in layout:
        arrays.append(data[begin : begin + spec.nbytes(tokens)])
        begin += spec.nbytes(tokens)
    return arrays


def no_follow(path: str, flags: int) -> int:
    """An `opener` that follows no links and does not block on pipes. Raises OSError."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def header(metadata: Mapping[str, str], layout: Layout, tokens: int) -> bytes:
    """A safetensors header: its length in 8 bytes, JSON, spaces up to a multiple of 8 bytes.

    https://huggingface.co/docs/safetensors#format
    """
    fields: dict[str, object] = {"__metadata__": metadata}
    begin = 0
    for number, spec in enumerate(layout):
        end = begin + spec.nbytes(tokens)
        shape, offsets = spec.of(tokens), (begin, end)
        fields[str(number)] = {"dtype": spec.dtype, "shape": shape, "data_offsets": offsets}
        begin = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header(key: str, layout: Layout, tokens: int, checksum: int) -> bytes:
    metadata = {
        "format": "budmlx-kv",
        "version": str(VERSION),
        "block": key,
        "crc32": f"{checksum:08x}",
    }
    return header(metadata, layout, tokens)
