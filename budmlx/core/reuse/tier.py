"""KV tier: moves blocks between the tree of prefixes and the disk. MLX is used on the caller's
thread only; what goes to disk is copied here, and written by a thread of the store's.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.model.model import Model
from budmlx.core.reuse.disk.files import Layout
from budmlx.core.reuse.disk.identity import NUMBERS, layout_of, model_digest, name_of
from budmlx.core.reuse.disk.store import KVStore, chain, chains
from budmlx.core.reuse.interface import Allowance
from budmlx.core.reuse.tree import Block, PrefixTree
from budmlx.protocol import DiskCounts, KVStoreSettings

log = logging.getLogger(__name__)

# Bytes of blocks that are in the tree no more and wait for a moment to be saved.
MOST_REPLACED = 64 * 2**20


class KVTier:
    """Writes blocks of the tree to disk, and reads them back."""

    def __init__(self, store: KVStore, layout: Layout):
        self._store = store
        self._layout = layout
        self._unsaved: OrderedDict[Block, None] = OrderedDict()
        self._replaced = deque[Block]()

    @classmethod
    def open(cls, model: Model, settings: KVStoreSettings, block: int) -> KVTier | None:
        """The tier of a model whose caches can be cut; None if its dtype cannot be stored."""
        layout = layout_of(model)
        if layout is None:
            log.warning("KV is not kept on disk: this model computes with numbers of other types")
            return None
        identity = f"{settings.salt} {block} {layout} {model_digest(Path(model.info.path))}"
        directory = Path(settings.directory)
        store = KVStore(directory, model.info.name, identity, layout, settings.limit)
        return cls(store, layout)

    @property
    def counters(self) -> DiskCounts:
        """Counts since the start."""
        return self._store.counters

    # To the disk

    @property
    def pending(self) -> bool:
        """Whether `save` has something to do now."""
        return bool(self._replaced or self._unsaved) and self._store.accepts

    def added(self, blocks: Iterable[Block]) -> None:
        """Register blocks that are new in the tree."""
        self._unsaved.update(dict.fromkeys(blocks))

    def save(self) -> None:
        """Queue one block for the store."""
        if self._replaced and self.pending:
            self._save(self._replaced.popleft())
        elif self.pending:
            block, _ = self._unsaved.popitem(last=False)
            self._save(block)

    def leaving(self, block: Block) -> None:
        """Queue a block that is about to be evicted for the store, unless the store has it."""
        self._unsaved.pop(block, None)
        self._save(block)

    def replaced(self, block: Block) -> None:
        """Register a block that ended early, a copy, in whose place a longer one comes.

        On disk it is of use beside that: blocks match as a whole only there, and where a prompt
        ended the next one may go on in another way than the reply did.
        """
        self._replaced.append(block)
        while sum(each.nbytes for each in self._replaced) > MOST_REPLACED:
            self._save(self._replaced.popleft())

    def forget(self) -> None:
        """Drop all blocks that wait to be written: what the tree holds must not reach the disk."""
        self._unsaved.clear()
        self._replaced.clear()
        self._store.forget()

    def close(self, seconds: float) -> None:
        """Write what can be written within `seconds`."""
        end = time.monotonic() + seconds
        while self.pending and time.monotonic() < end:
            self.save()
        self._store.close(max(end - time.monotonic(), 0.0))

    def _save(self, block: Block) -> None:
        path = self._path(block)
        if path[-1] in self._store:
            self._store.use(path)
            return
        if not self._store.accepts:
            self._store.drop()
            return
        tokens = len(block.tokens)
        shapes = [(name_of(array), array.shape) for array in block.value]
        if shapes != [(spec.dtype, spec.of(tokens)) for spec in self._layout]:
            self._store.drop()
            return
        try:
            arrays = [bytes(memoryview(array)) for array in block.value]
        except RuntimeError as error:
            if is_device_fault(error):
                raise
            log.exception("a block of KV could not be read")
            self._store.drop()
            return
        self._store.save(path, tokens, arrays)

    def _path(self, block: Block) -> list[bytes]:
        """Keys of the blocks from the first one to this."""
        blocks = [block]
        while (parent := blocks[-1].parent) is not None:
            blocks.append(parent)
        root = blocks.pop()
        key = self._store.root(root.value)
        keys = []
        for each in reversed(blocks):
            each.key = key = each.key or chain(key, each.tokens)
            keys.append(key)
        return keys

    # From the disk

    def restore(
        self,
        tree: PrefixTree,
        namespace: str,
        ids: Sequence[int],
        least: int,
        allowed: Allowance,
        *,
        low: bool = False,
    ) -> bool:
        """Read what follows of `ids` into the tree; returns whether more is left to read.

        least: the fewest additional tokens that are worth reading. low: for the background.
        """
        match = tree.match(namespace, ids, low=True)  # It is not used yet.
        start = match.length // tree.block * tree.block
        path = self._path(match.blocks[start // tree.block - 1]) if start else []
        parent = path[-1] if path else self._store.root(namespace)
        ahead = self._ahead(parent, ids, start, tree.block)
        if start + sum(tokens for _, tokens in ahead) - match.length < least:
            self.counters.misses += not ahead
            return False
        for key, tokens in ahead:
            if allowed.tokens == 0:
                self.counters.slower += 1
                allowed.declined += 1
                return False
            if allowed.spent:
                return True
            begin = time.perf_counter()
            path.append(key)
            if not self._load(tree, namespace, ids[: start + tokens], start, path, low=low):
                return False
            allowed.seconds += time.perf_counter() - begin
            allowed.read += tokens
            start += tokens
        self._store.use(path)
        return False

    def _ahead(
        self, parent: bytes, ids: Sequence[int], start: int, block: int
    ) -> list[tuple[bytes, int]]:
        """Keys and lengths of the blocks on disk that hold what follows token `start`."""
        found = []
        while start + block <= len(ids):
            key = chain(parent, ids[start : start + block])
            if key not in self._store:
                break
            found.append((key, block))
            parent, start = key, start + block
        rest = ids[start : start + block - 1]
        tail = next((each for each in chains(parent, rest) if each[0] in self._store), None)
        return found if tail is None else [*found, tail]

    def _nbytes(self, tokens: int) -> int:
        return sum(spec.nbytes(tokens) for spec in self._layout)

    def _load(
        self,
        tree: PrefixTree,
        namespace: str,
        ids: Sequence[int],
        start: int,
        path: list[bytes],
        *,
        low: bool,
    ) -> bool:
        """Read the last block of `ids`, which begins at `start`, into the tree."""
        tokens = len(ids) - start
        nbytes = self._nbytes(tokens)
        if tree.pinned + nbytes > tree.limit:
            return False
        buffers = self._store.load(path[-1], tokens)
        if buffers is None:
            return False
        try:
            arrays = self._arrays(buffers, tokens)
        except RuntimeError as error:  # no memory, most likely: rows wait for it, too
            if is_device_fault(error):
                raise
            log.exception("a block of KV could not be taken from disk")
            return False
        new = tree.insert(namespace, ids, start, [(arrays, nbytes)], low=low)
        for block in new:
            block.key = path[-1]
        return bool(new)

    def _arrays(self, buffers: Sequence[memoryview], tokens: int) -> list[mx.array]:
        arrays = []
        for spec, buffer in zip(self._layout, buffers, strict=True):
            dtype, kind = NUMBERS[spec.dtype]
            numbers = np.frombuffer(buffer, kind).reshape(spec.of(tokens))
            arrays.append(mx.array(numbers).view(dtype))
        mx.eval(arrays)
        return arrays
