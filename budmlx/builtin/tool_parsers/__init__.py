"""Built-in tool-call parsers: the formats of the common model families."""

from __future__ import annotations

from dataclasses import replace

from budmlx import hookimpl
from budmlx.builtin.tool_parsers.family import Family, knows_tools
from budmlx.builtin.tool_parsers.gemma import FUNCTION_GEMMA, GEMMA4
from budmlx.builtin.tool_parsers.kimi_k3 import KIMI_K3
from budmlx.builtin.tool_parsers.markup import GLM, LONGCAT, MINICPM5, MINIMAX, MUSE, QWEN3_CODER
from budmlx.builtin.tool_parsers.named import DEEPSEEK, HARMONY, KIMI, MISTRAL
from budmlx.builtin.tool_parsers.objects import COHERE, GRANITE, HERMES, LLAMA
from budmlx.builtin.tool_parsers.pythonic import LFM2, PYTHONIC
from budmlx.plugins.parsing import ModelTraits, ToolParserSpec

FAMILIES: tuple[Family, ...] = (
    MINIMAX,
    GEMMA4,
    FUNCTION_GEMMA,
    LONGCAT,
    GLM,
    LFM2,
    QWEN3_CODER,
    KIMI,
    KIMI_K3,
    MINICPM5,
    DEEPSEEK,
    MISTRAL,
    MUSE,
    HARMONY,
    COHERE,
    GRANITE,
    PYTHONIC,
    LLAMA,
    HERMES,
)
"""All families. Of several that fit a model, the first is taken; `<tool_call>` says least."""


@hookimpl
def provide_tool_parser(name: str, model: ModelTraits) -> ToolParserSpec | None:
    """The family of this name; for `auto` the one that fits the model, or Hermes as a guess, which
    many models were trained on, if the template knows tools at all."""
    fitting = (f for f in FAMILIES if (f.fits(model) if name == "auto" else f.name == name))
    if (family := next(fitting, None)) is not None:
        return family.spec(model)
    if name == "auto" and knows_tools(model):
        return replace(HERMES.spec(model), syntax=None, guessed=True)
    return None
