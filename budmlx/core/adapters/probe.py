"""Probe: which layers of a model can have adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

log = logging.getLogger(__name__)

LINEAR = (nn.Linear, nn.QuantizedLinear)
# Of the passes that are tried: different, so that rows are told from tokens.
ROWS, TOKENS = 3, 5


@dataclass(frozen=True, slots=True)
class Site:
    """A layer of a model, and the size of its input and its output.

    problem: why it cannot have adapters; else empty.
    """

    inputs: int = 0
    outputs: int = 0
    problem: str = ""


class _Probe(nn.Module):  # type: ignore[misc]
    """A linear layer that notes how it is used."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self["base"] = base
        self.note = _Note()

    def __call__(self, x: mx.array) -> mx.array:
        self.note.calls += 1
        self.note.by_rows &= x.ndim == 3 and x.shape[0] == ROWS
        result: mx.array = self["base"](x)
        return result

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        if key == "note":
            raise AttributeError(key)
        self.note.read = self.note.read or key
        return getattr(self["base"], key)


@dataclass(slots=True)
class _Note:
    """calls: how many. by_rows: each had rows in front. read: an attribute that was. skipped: a
    pass did not call it.
    """

    calls: int = 0
    by_rows: bool = True
    read: str = ""
    skipped: bool = False

    def end_pass(self) -> None:
        self.skipped |= not self.calls
        self.calls = 0

    @property
    def problem(self) -> str:
        if self.read:
            return f"its {self.read} is read by the model instead of calling it"
        if self.skipped:
            return "it is not called in every pass"
        return "" if self.by_rows else "it does not get one input for each row"


def sites(module: nn.Module, new_cache: Callable[[], list[Any]]) -> Mapping[str, Site]:
    """All layers of a model by their paths, as far as they are linear.

    Two passes are tried with a prompt and with one more token; only their graphs are built.
    """
    linear = {path: each for path, each in module.named_modules() if isinstance(each, LINEAR)}
    probes = {path: _Probe(each) for path, each in linear.items()}
    problem = ""
    replace_modules(module, probes)
    try:
        cache = new_cache()
        for tokens in (TOKENS, 1):
            module(mx.zeros((ROWS, tokens), dtype=mx.int32), cache=cache)
            for probe in probes.values():
                probe.note.end_pass()
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        log.warning("this model takes no adapters: %s", error)
        problem = f"the model does not run with it replaced ({error})"
    finally:
        replace_modules(module, linear)
    return {
        path: Site(*_sizes(linear[path]), problem or probe.note.problem)
        for path, probe in probes.items()
    }


def replace_modules(module: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """Put modules in the place of those at these paths."""
    module.update_modules(tree_unflatten(list(new.items())))


def kind_at(module: nn.Module, path: str) -> str:
    """The name of the class of what is at a path; empty if there is nothing."""
    found = dict(module.named_modules()).get(path)
    return "" if found is None else type(found).__name__


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    outputs, inputs = layer.weight.shape
    if isinstance(layer, nn.QuantizedLinear):
        inputs = layer.scales.shape[1] * layer.group_size
    return inputs, outputs
