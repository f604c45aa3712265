"""Description: what is known of a model before it is loaded, from its files and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from budmlx.config import Config, ModelConfig
from budmlx.engine.assembly import TextParts
from budmlx.engine.load.draft_model import draft_model_settings, local_draft_model
from budmlx.engine.load.generation_config import sampling_defaults
from budmlx.engine.load.library.kv_size import CHUNK, KVLayout, with_drafter
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.text.infill import Infill
from budmlx.errors import BudmlxError
from budmlx.model_context import UNBOUNDED_CONTEXT
from budmlx.plugins.manager import Plugins
from budmlx.types import SamplingDefault

FIRST_CONTEXT = 4096
"""The smallest context whose memory is told, and each that follows is four times as long."""


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What a model's tokenizer and chat template can do.

    template: it has one. tools: the template writes tools. tool_format: the parser of its calls;
    empty if there is none. guessed: that parser is not known to fit. reasoning: the parser of
    its reasoning; empty if there is none. system: conversations may begin with instructions.
    images: pictures can be shown. infill: texts can be filled in the middle. variables: what
    `chat_template_kwargs` may set. efforts: levels of `reasoning_effort`. end_tokens: those that
    end a reply, by id.
    """

    template: bool
    tools: bool
    tool_format: str
    guessed: bool
    reasoning: str
    system: bool
    images: bool
    infill: bool
    variables: tuple[str, ...]
    efforts: tuple[str, ...]
    end_tokens: Mapping[int, str]

    @classmethod
    def of(cls, path: Path, config: ModelConfig, plugins: Plugins) -> Self:
        """Those of the model in a directory. Raises ModelLoadError, ConfigError."""
        parts = TextParts.of(path, config, plugins)
        tokenizer = parts.tokenizer
        template = tokenizer.template()
        calls, reasoning = parts.parsers.calls, parts.parsers.reasoning
        ends = tokenizer.eos_token_ids
        return cls(
            template=not template.plain,
            tools=tokenizer.template(tools=True).reads_tools,
            tool_format=calls.value.name if calls else "",
            guessed=calls is not None and calls.value.guessed,
            reasoning=reasoning.value.name if reasoning else "",
            system=template.order.head,
            images=parts.images.taken,
            infill=Infill.of(tokenizer) is not None,
            variables=tuple(sorted(template.names)),
            efforts=tuple(template.efforts),
            end_tokens={each: tokenizer.backend.id_to_token(each) or "" for each in ends},
        )


@dataclass(frozen=True, slots=True)
class ContextMemory:
    """The KV of one request of so many tokens, in bytes."""

    tokens: int
    kv: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What is known of a model before it is loaded.

    model: what its files say. context: most tokens of a prompt and its reply; None without limit.
    text: None where the files cannot be used. sampling: the default of each parameter.
    kv_bits: of stored keys and values; None for the model's own dtype. speculation: the setting;
    unsupported where it has no effect, None where that is not known. drafter: its draft model, if
    it is here. weights: of both. memory: for several contexts, with what the draft model keeps;
    empty where it is not known. problems: sentences about what does not fit.
    """

    model: LocalModel
    context: int | None
    text: TextFeatures | None
    sampling: Mapping[str, SamplingDefault]
    kv_bits: int | None
    speculation: str | None
    drafter: LocalModel | None
    memory: tuple[ContextMemory, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: LocalModel, config: Config, plugins: Plugins) -> Self:
        """Read the files of a model; it never fails. config: with the model's own settings."""
        problems = [model.problem] if model.problem else []
        text, layout, drafter = None, model.kv, local_draft_model(config, config.models_dir)
        try:
            text = TextFeatures.of(model.path, config, plugins)
        except BudmlxError as error:
            problems += [error.message] if model.servable else []
        sampling, wrong = sampling_defaults(model.path, config)
        if config.draft_model is not None:
            layout = with_drafter(layout, drafter.kv if drafter else None)
            try:
                draft_model_settings(model.path, model.name, config, config.models_dir, plugins)
            except BudmlxError as error:
                wrong.append(error.message)
        bits = config.kv_bits
        if bits is not None and layout is not None and layout.group_size is None:
            wrong.append(f"kv_bits is {bits}: this model cannot keep its KV quantized.")
            bits = None
        context = min(filter(None, (model.context, config.context_limit)), default=None)
        chunk = CHUNK if config.prefill_chunk == "auto" else config.prefill_chunk
        return cls(
            model=model,
            context=context,
            text=text,
            sampling=sampling,
            kv_bits=bits,
            speculation=_speculation(layout, config),
            drafter=drafter,
            memory=tuple(
                ContextMemory(tokens, layout.row_bytes(tokens, bits, chunk))
                for tokens in _contexts(context)
                if layout is not None
            ),
            problems=(*problems, *wrong),
        )

    @property
    def weights(self) -> int:
        """Bytes of the weights, with those of the draft model."""
        return self.model.weights + (self.drafter.weights if self.drafter else 0)

    def as_json(self) -> dict[str, Any]:
        """All that is known, for JSON. Numbers of memory are bytes."""
        return {
            **self.model.as_json(),
            "context_limit": self.context,
            "text": None if self.text is None else asdict(self.text),
            "sampling": {name: asdict(each) for name, each in self.sampling.items()},
            "kv_bits": self.kv_bits,
            "speculation": self.speculation,
            "draft_model": None if self.drafter is None else self.drafter.as_json(),
            "memory": [{**asdict(each), "total": self.weights + each.kv} for each in self.memory],
            "problems": list(self.problems),
        }


def _speculation(layout: KVLayout | None, config: ModelConfig) -> str | None:
    if layout is None:
        return None
    return str(config.speculation) if layout.takes_back else "unsupported"


def _contexts(longest: int | None) -> Iterator[int]:
    """Numbers of tokens, up to the model's own."""
    tokens, last = FIRST_CONTEXT, longest or UNBOUNDED_CONTEXT
    while tokens < last:
        yield tokens
        tokens *= 4
    yield last
