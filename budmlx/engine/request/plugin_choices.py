"""Plugin choices: samplers and logits processors that a request names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from budmlx.errors import InvalidRequestError
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.specs import LogitsProcessorSpec, SamplerSpec
from budmlx.protocol import PluginCall
from budmlx.types import PluginChoice, SamplingParams

Offers = Mapping[str, Owned[Any]]


class PluginChoices:
    """The samplers and processors of plugins; turns the choices of requests into calls."""

    def __init__(self, plugins: Plugins):
        self._samplers: Offers = plugins.named("add_samplers")
        self._processors: Offers = plugins.named("add_logits_processors")

    def calls(self, sampling: SamplingParams) -> tuple[PluginCall | None, list[PluginCall]]:
        """The sampler and the logits processors that a request chose.

        Raises:
            InvalidRequestError: one is unknown or misused; `param` names it.
        """
        sampler = None
        if sampling.sampler is not None:
            sampler = _call(sampling.sampler, self._samplers, "sampler")
        processors = [
            _call(choice, self._processors, f"logits_processors[{i}]")
            for i, choice in enumerate(sampling.logits_processors)
        ]
        return sampler, processors


def choice_of(value: PluginChoice | Mapping[str, Any], param: str) -> PluginChoice:
    """A choice from its form in requests: `{"name": ..., option: value, ...}`.

    Raises:
        InvalidRequestError: there is no name.
    """
    if isinstance(value, PluginChoice):
        return value
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(name, str):
        raise InvalidRequestError(f"{param} must be an object with a name.", param=f"{param}.name")
    return PluginChoice(name, {key: item for key, item in value.items() if key != "name"})


def _call(choice: PluginChoice, offers: Offers, param: str) -> PluginCall:
    owned = offers.get(choice.name)
    if owned is None:
        known = ", ".join(sorted(offers)) or "none; install a plugin that brings one"
        raise InvalidRequestError(
            f"{param}: there is no {choice.name[:100]!r}. Installed: {known}.",
            param=f"{param}.name",
        )
    spec: SamplerSpec | LogitsProcessorSpec = owned.value
    try:
        options = spec.options.model_validate(dict(choice.options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join([param, *map(str, first["loc"])])
        raise InvalidRequestError(f"{path}: {first['msg']}.", param=path) from error
    return PluginCall(
        plugin=owned.plugin,
        name=spec.name,
        core=spec.core,
        options=options.model_dump(mode="json"),
    )
