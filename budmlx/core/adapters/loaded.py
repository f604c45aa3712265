"""The adapters of a loaded model: added and removed layer by layer, between passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from budmlx.core.adapters.files import AdapterFiles, LowRank
from budmlx.core.adapters.layers import AdapterLinear, Choice, Chosen
from budmlx.core.adapters.layouts import refusal
from budmlx.core.adapters.probe import Site, kind_at, replace_modules, sites
from budmlx.errors import ModelLoadError
from budmlx.lookup import Bounded
from budmlx.units import size_text

DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
# Choices that are remembered: those of the groups and prompts of a few steps.
CHOICES = 64
# Layers whose matrices may be copied for rows at the same time.
COPIED_LAYERS = 4


class Adapters:
    """The adapters of one model. MLX is used on the caller's thread only.

    Nothing of a model changes before the first adapter comes, and a layer is its own again when
    the last one that changes it has left.

    names: the digests of those that rows may choose, with the bytes that each added. nbytes: of
    all, also of one that is being added. copied: further bytes that each row of a pass takes.
    """

    def __init__(self, module: nn.Module, new_cache: Callable[[], list[Any]]):
        self.names: dict[str, int] = {}
        self.nbytes = 0
        self.copied = 0
        self._module = module
        self._new_cache = new_cache
        self._sites: Mapping[str, Site] = {}
        self._layers: dict[str, AdapterLinear] = {}
        self._chosen = Chosen()
        self._choices: Bounded[tuple[str, ...], Choice] = Bounded(count=CHOICES)

    @contextmanager
    def chosen(self, names: Sequence[str]) -> Iterator[None]:
        """Context in which a pass is built. names: the adapter of each row, empty for none."""
        key = tuple(names)
        choice = self._choices.get(key) or Choice(key)
        self._choices.put(key, choice)
        self._chosen.choice = choice
        try:
            yield
        finally:
            self._chosen.choice = None

    def add(self, files: AdapterFiles, room: int) -> Iterator[None]:
        """Add an adapter, one layer after each `next`; at the end rows may choose it.

        room: bytes that it may take.

        Raises:
            ModelLoadError: the model has no such layers, or there is no room; nothing is changed.
        """
        if files.digest in self.names:
            return
        if not self._sites:
            self._sites = sites(self._module, self._new_cache)
            yield
        for path, update in files.updates.items():
            if problem := self._problem(path, update):
                made_for = f" It was made for {files.base}." if files.base else ""
                error = refusal(files.path, files.weights, problem)
                raise ModelLoadError(error.message + made_for)
        if (needed := self._growth(files)) > room:
            raise ModelLoadError(
                f"The adapter in {files.path} needs {size_text(needed)}, and the memory limit "
                f"leaves {size_text(max(room, 0))}. Remove another one, or raise the limit."
            )
        self.nbytes += needed
        try:
            for path, update in files.updates.items():
                self._layer(path).put(files.digest, *_matrices(update))
                yield
        except BaseException:
            for _ in self._drop(files.digest):
                pass
            raise
        self._count()
        self.names[files.digest] = needed

    def remove(self, digest: str) -> Iterator[None]:
        """Forget an adapter that no row has, one layer after each `next`."""
        self.names.pop(digest, None)
        yield from self._drop(digest)

    def _drop(self, digest: str) -> Iterator[None]:
        for path, layer in list(self._layers.items()):
            if digest in layer.layout.names:
                layer.drop(digest)
                if not layer.layout.names:
                    del self._layers[path]
                    replace_modules(self._module, {path: layer.base})
                yield
        self._count()

    def _count(self) -> None:
        self._choices.clear()
        self.nbytes = sum(layer.nbytes for layer in self._layers.values())
        copied = max((layer.copied for layer in self._layers.values()), default=0)
        self.copied = COPIED_LAYERS * copied

    def _growth(self, files: AdapterFiles) -> int:
        """Bytes that an adapter adds, those that fill up the matrices of others included."""
        modules, grown = dict(self._module.named_modules()), 0
        for path, update in files.updates.items():
            site, layer = self._sites[path], self._layers.get(path)
            layer = layer or AdapterLinear(modules[path], self._chosen)
            widths = site.inputs + site.outputs
            grown += layer.nbytes_with(update.rank, widths, DTYPES[update.dtype]) - layer.nbytes
        return grown

    def _layer(self, path: str) -> AdapterLinear:
        if path not in self._layers:
            base = dict(self._module.named_modules())[path]
            self._layers[path] = AdapterLinear(base, self._chosen)
            replace_modules(self._module, {path: self._layers[path]})
        return self._layers[path]

    def _problem(self, path: str, update: LowRank) -> str:
        """Why an update does not fit the model; else empty."""
        name_a, name_b = update.tensors
        site = self._sites.get(path)
        if site is None:
            kind = kind_at(self._module, path)
            if "Switch" in kind or ".experts" in path:
                return f"{name_a} is for experts, which cannot have adapters yet"
            if not kind:
                return f"{name_a}: the model has no layer {path}"
            return f"{name_a} is for a layer of the kind {kind}, which cannot have an adapter"
        if site.problem:
            return f"{name_a} is for a layer that cannot have an adapter: {site.problem}"
        for name, found, wanted in (
            (name_a, update.a.shape[1], site.inputs),
            (name_b, update.b.shape[1], site.outputs),
        ):
            if found != wanted:
                return f"{name} is {found} wide, and the model's layer {wanted}"
        return ""


def _matrices(update: LowRank) -> tuple[mx.array, mx.array]:
    """A [rank, inputs], and B [rank, outputs] with its scale."""
    a, b = _array(update.dtype, update.a), _array(update.dtype, update.b)
    return a, (b.astype(mx.float32) * update.scale).astype(b.dtype)


def _array(dtype: str, numbers: Any) -> mx.array:
    array = mx.array(numbers)
    return array.view(mx.bfloat16) if dtype == "BF16" else array
