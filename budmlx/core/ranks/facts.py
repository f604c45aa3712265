"""Facts: what must be the same on all ranks of a model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points, version

from budmlx.core.model.model import Model
from budmlx.protocol import PROTOCOL_VERSION, CoreSettings


def facts_of(model: Model, settings: CoreSettings) -> dict[str, str]:
    """This rank's, by name."""
    targets = [*settings.plugins, *([settings.loader] if settings.loader else [])]
    pipelined = model.ranks is not None and model.ranks.pipelined
    plugins = {target.plugin for target in targets}
    return {
        **{f"the version of {name}": version(name) for name in ("budmlx", "mlx", "mlx-lm")},
        **{f"the version of the plugin {name}": _version(name) for name in sorted(plugins)},
        "the protocol": str(PROTOCOL_VERSION),
        "the model's files": model.info.fingerprint,
        "the bytes of its weights": "" if pipelined else str(model.memory.weights),
        "the device's numbers": f"{model.numbers.copy_steps} {model.policy.stored_arrays}",
    }


def _version(plugin: str) -> str:
    """The version of the package with a plugin; none for one of the package itself."""
    for entry in entry_points(group="budmlx", name=plugin):
        if entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return "none"


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs, in words; empty if nothing does."""
    return "; ".join(
        f"{name} is {theirs.get(name, 'unknown')}, not {fact}"
        for name, fact in ours.items()
        if theirs.get(name) != fact
    )
