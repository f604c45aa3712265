"""Plugin choices: samplers and logits processors that a request names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from budmlx.config.explain import plain
from budmlx.errors import InvalidRequestError
from budmlx.plugins.boundary import calling
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.options import Vocabulary
from budmlx.plugins.specs import LogitsProcessorSpec, SamplerSpec
from budmlx.protocol import PluginCall
from budmlx.types import PluginChoice, SamplingParams

Offers = Mapping[str, Owned[Any]]


class PluginChoices:
    """The samplers and processors of plugins; turns the choices of requests into calls."""

    def __init__(self, plugins: Plugins, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._samplers: Offers = plugins.named("add_samplers")
        self._processors: Offers = plugins.named("add_logits_processors")

    def calls(self, sampling: SamplingParams) -> tuple[PluginCall | None, list[PluginCall]]:
        """The sampler and the logits processors that a request chose.

        Raises:
            InvalidRequestError: one is unknown or misused; `param` names it.
        """
        sampler = None
        if sampling.sampler is not None:
            sampler = self._call(sampling.sampler, self._samplers, "sampler")
        processors = [
            self._call(choice, self._processors, f"logits_processors[{i}]")
            for i, choice in enumerate(sampling.logits_processors)
        ]
        return sampler, processors

    def _call(self, choice: PluginChoice, offers: Offers, param: str) -> PluginCall:
        owned = offers.get(choice.name)
        if owned is None:
            known = ", ".join(sorted(offers)) or "none; install a plugin that brings one"
            raise InvalidRequestError(
                f"{param}: there is no {choice.name[:100]!r}. Installed: {known}.",
                param=f"{param}.name",
            )
        spec: SamplerSpec | LogitsProcessorSpec = owned.value
        with calling(owned.plugin, f"options of {spec.name}"):
            options = self._options(owned, choice, param)
        return PluginCall(plugin=owned.plugin, name=spec.name, core=spec.core, options=options)

    def _options(
        self,
        owned: Owned[SamplerSpec | LogitsProcessorSpec],
        choice: PluginChoice,
        param: str,
    ) -> dict[str, Any]:
        spec = owned.value
        try:
            options = spec.options.model_validate(
                dict(choice.options), context={"vocabulary": self._vocabulary}
            )
            return options.model_dump(mode="json")
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=False)
            path = ".".join([param, *map(str, details[0]["loc"])])
            text = f"{path}: {_problem(details[0], spec)} (plugin {owned.plugin})."
            raise InvalidRequestError(text, param=path) from error


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


def _problem(detail: ErrorDetails, spec: SamplerSpec | LogitsProcessorSpec) -> str:
    if detail["type"] == "extra_forbidden":
        known = ", ".join(spec.options.model_fields) or "none"
        return f"{spec.name} has no such option; it has {known}"
    return plain(detail["msg"]) if detail["type"] != "missing" else f"{spec.name} needs it"
