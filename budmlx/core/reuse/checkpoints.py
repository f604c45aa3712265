"""Whole states of rows, for caches that cannot be cut at any token: those of sliding windows
and of recurrent layers. A state serves prompts that begin with exactly its tokens.

States are kept where the engine expects other prompts to part, where a prompt ends, and where a
row ends, for the next turn of its conversation.
"""

from __future__ import annotations

import copy
import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from budmlx.core.reuse.interface import Allowance
from budmlx.protocol import SessionFile

Key = tuple[str, bytes]
# Fewer tokens are not worth a copy, unless they are all that a prompt needs.
LEAST = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The cache of a row that had computed `length` tokens; it must not be changed.

    cache: one entry per layer.
    """

    key: Key
    length: int
    cache: list[Any]

    @classmethod
    def of(cls, namespace: str, ids: Sequence[int], cache: Sequence[Any]) -> Checkpoint:
        """A copy, not yet computed, of a row's cache that holds exactly `ids`."""
        arrays = _arrays_of(cache)
        # An array that is a part of another, of the state of a batch say, holds all its memory.
        compact = {id(array): mx.contiguous(array) for array in arrays}
        whole = copy.deepcopy(list(cache), compact)
        return cls((namespace, _Digest().add(ids).value), len(ids), whole)

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that must be evaluated before it may be used."""
        return _arrays_of(self.cache)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)

    def pin(self) -> None:
        """Nothing to do: whoever has a checkpoint keeps it."""

    def unpin(self) -> None:
        """See `pin`."""


class Checkpoints:
    """Holds checkpoints up to a limit in bytes; the least recently used one goes first.

    version: changes whenever more can be found.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.nbytes = 0
        self.version = 0
        self._kept: OrderedDict[Key, Checkpoint] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def find(self, namespace: str, ids: Sequence[int], more_than: int) -> Checkpoint | None:
        """The longest checkpoint for a beginning of `ids` with more than so many tokens."""
        found = self._longest(namespace, ids)
        if found is None or found.length <= more_than:
            return None
        self._kept.move_to_end(found.key)
        return found

    def covered(self, namespace: str, ids: Sequence[int]) -> int:
        """How many tokens of `ids` could be found; to ask is not to use them."""
        found = self._longest(namespace, ids)
        return 0 if found is None else found.length

    def _longest(self, namespace: str, ids: Sequence[int]) -> Checkpoint | None:
        found, begin, digest = None, 0, _Digest()
        for length in sorted(length for length in self._lengths if length <= len(ids)):
            digest.add(ids[begin:length])
            begin = length
            found = self._kept.get((namespace, digest.value), found)
        return found

    def stored(self, namespace: str, ids: Sequence[int]) -> bool:
        """Whether there is one for exactly these ids."""
        key = (namespace, _Digest().add(ids).value)
        return len(ids) in self._lengths and key in self._kept

    def store(self, checkpoint: Checkpoint) -> bool:
        """Keep a checkpoint if it is new and fits; whether that is so."""
        nbytes = checkpoint.nbytes
        if nbytes > self.limit or checkpoint.key in self._kept:
            return False
        self._evict(self.limit - nbytes)
        self._kept[checkpoint.key] = checkpoint
        self._lengths[checkpoint.length] += 1
        self.nbytes += nbytes
        self.version += 1
        return True

    def resize(self, limit: int) -> None:
        """Set the limit, and drop what is beyond it."""
        self.limit = limit
        self._evict(limit)

    def clear(self) -> None:
        """Forget everything."""
        self._evict(0)
        self.version += 1

    def _evict(self, target: int) -> None:
        while self.nbytes > target:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes
            self._lengths[oldest.length] -= 1
            if not self._lengths[oldest.length]:
                del self._lengths[oldest.length]


class CheckpointReuse:
    """What `Reuse` is for other models. limit: bytes at most; 0 switches everything off."""

    pending = False
    reserved = 0

    def __init__(self, limit: int):
        self._limit = limit
        self._kept = Checkpoints(limit)

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""
        return self._limit > 0

    @property
    def version(self) -> int:
        """Changes whenever more can be found."""
        return self._kept.version

    def resize(self, room: int) -> None:
        """Take no more than the rows leave of the memory, in bytes."""
        self._kept.resize(max(0, min(self._limit, room)))

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def save(self) -> None:
        """Nothing to do: states are not written to disk."""

    def in_memory(self, namespace: str, ids: Sequence[int]) -> int:
        """There is no disk."""
        return len(ids)

    def restore(self, namespace: str, ids: Sequence[int], allowed: Allowance) -> bool:
        """Nothing comes from disk."""
        return False

    def close(self, seconds: float) -> None:
        """Nothing to do."""

    def open_session(self, session: SessionFile | None) -> str:
        """There are no sessions of such models."""
        return "" if session is None or session.save else "This model cannot begin with a session."

    def find(self, namespace: str, ids: Sequence[int], computed: int) -> Checkpoint | None:
        """The longest state for a beginning of `ids` that is worth its copy.

        computed: tokens of `ids` that need no computing anyway.
        """
        found = self._kept.find(namespace, ids, computed)
        if found is None or (found.length - computed < LEAST and found.length < len(ids)):
            return None
        return found

    def dense(self, match: Checkpoint, capacity: int) -> list[Any]:
        """A copy of a state for one row to go on with."""
        return copy.deepcopy(match.cache)

    def cut(
        self, namespace: str, ids: Sequence[int], cache: Callable[[], Sequence[Any]], *, tail: bool
    ) -> Checkpoint | None:
        """A copy, not yet computed, of the state after `ids`, if there is none.

        cache: gives the cache of a row that holds exactly `ids`. tail: a state is wanted here.
        """
        if not tail or not ids or not self._kept.limit or self._kept.stored(namespace, ids):
            return None
        return Checkpoint.of(namespace, ids, cache())

    def store(self, cut: Checkpoint | None) -> None:
        """Hand over what `cut` returned, once it has been evaluated."""
        if cut is not None:
            self._kept.store(cut)

    def keep(
        self, namespace: str, ids: Sequence[int], held: int, cache: Callable[[], Sequence[Any]]
    ) -> None:
        """Store the state in which a row leaves, unless it has run ahead of its ids.

        ids: prompt and generated tokens. held: tokens that the cache holds. A state that saves
        fewer than `LEAST` tokens over what is stored is not worth its bytes.
        """
        if held > len(ids) or not self._kept.limit:
            return
        ids = ids[:held]
        if held - self._kept.covered(namespace, ids) < LEAST:
            return
        checkpoint = Checkpoint.of(namespace, ids, cache())
        # Computed in the background, and only if it is kept.
        if self._kept.store(checkpoint):
            mx.async_eval(checkpoint.arrays)


def _arrays_of(cache: Sequence[Any]) -> list[mx.array]:
    leaves = (leaf for _, leaf in tree_flatten([entry.state for entry in cache]))
    return [leaf for leaf in leaves if isinstance(leaf, mx.array)]


class _Digest:
    """A digest of token ids that grows with them."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, ids: Sequence[int]) -> _Digest:
        """Go on with these ids; returns itself."""
        self._hash.update(array("q", ids).tobytes())
        return self

    @property
    def value(self) -> bytes:
        """The digest of all ids so far."""
        return self._hash.copy().digest()
