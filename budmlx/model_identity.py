"""What tells one model directory from another: one look at its files, three digests.

They differ in what they are asked for. Their values are in replies, in names of files on disk
and in keys of response caches: whatever changes one of them sets aside what was kept before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from budmlx.weight_digests import WeightDigests

# Places in each file of weights, and bytes there, that tell whether it is the same file.
SAMPLES = 64
SAMPLE = 4096


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from others without reading it.

    In the hub's cache files are links to blobs that are named by their content; elsewhere the
    time of change must help.
    """

    path: Path
    blob: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The identity of a file that exists."""
        status = path.stat()
        return cls(path, path.resolve().name, status.st_size, status.st_mtime_ns)

    @property
    def known(self) -> bytes:
        """All of it, to be digested."""
        return repr((self.path.name, self.blob, self.size, self.changed)).encode()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The files of a model directory, sorted by name, and the bytes of its configuration."""

    config: bytes
    files: tuple[FileIdentity, ...]

    @classmethod
    def read(cls, path: Path) -> ModelIdentity:
        """Look at the files in `path`. Raises OSError."""
        files = tuple(FileIdentity.of(file) for file in sorted(path.iterdir()) if file.is_file())
        return cls((path / "config.json").read_bytes(), files)

    @property
    def shards(self) -> list[FileIdentity]:
        """The files of weights."""
        return [file for file in self.files if file.path.match("model*.safetensors")]

    def fingerprint(self, digests: WeightDigests, kv_bits: int | None = None) -> str:
        """A short name for what computes: the configuration, the weights, `kv_bits`.

        It is the same for copies of a model, and another one whenever a weight is.
        """
        digest = hashlib.sha256(self.config)
        if kv_bits is not None:
            digest.update(f"kv_bits {kv_bits} ".encode())
        shards = [shard.path for shard in self.shards]
        for path, weights in zip(shards, digests.of(shards), strict=True):
            digest.update(f"{path.name} {weights} ".encode())
        return "fp_" + digest.hexdigest()[:12]

    def sampled(self, versions: Sequence[str]) -> str:
        """A digest of what computes KV: the configuration, samples of the weights, `versions`.

        Reading all weights would take longer than loading them.
        """
        digest = hashlib.sha256(repr(list(versions)).encode() + self.config)
        for shard in self.shards:
            digest.update(shard.known)
            with shard.path.open("rb") as file:
                for place in range(SAMPLES):
                    file.seek(place * max(shard.size - SAMPLE, 0) // (SAMPLES - 1))
                    digest.update(file.read(SAMPLE))
        return digest.hexdigest()

    def listed(self) -> str:
        """A digest that changes whenever any file of the model may have changed."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.known)
        return digest.hexdigest()
