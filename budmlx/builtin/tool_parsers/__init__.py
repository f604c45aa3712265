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

MLX_LM_NAMES = {
    "function_gemma": "function-gemma",
    "gemma4": "gemma4",
    "glm47": "glm",
    "json_tools": "hermes",
    "kimi_k2": "kimi-k2",
    "kimi_k3": "kimi-k3",
    "laguna": "glm",
    "longcat": "longcat",
    "minicpm5": "minicpm5",
    "minimax_m2": "minimax-m2",
    "mistral": "mistral",
    "muse_spark": "muse",
    "pythonic": "lfm2",
    "qwen3_coder": "qwen3-coder",
}
"""mlx-lm's names of formats, which models that it converted have in their files; and ours."""


@hookimpl
def provide_tool_parser(name: str, model: ModelTraits) -> ToolParserSpec | None:
    """The family of this name; for `auto` the one that the model's files name or that fits them, or
    Hermes as a guess, which many models were trained on, if the template knows tools at all."""
    if name == "auto":
        name = MLX_LM_NAMES.get(model.tool_parser, name)
    fitting = (f for f in FAMILIES if (f.fits(model) if name == "auto" else f.name == name))
    if (family := next(fitting, None)) is not None:
        return family.spec(model)
    if name == "auto" and knows_tools(model):
        return replace(HERMES.spec(model), syntax=None, guessed=True)
    return None
