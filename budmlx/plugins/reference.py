"""Reference of all hooks, made from their specs; `make docs` writes it to docs/hooks.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from budmlx.plugins import hookspecs, parsing, specs, vision
from budmlx.plugins.hookspecs import RINGS

SHOWN = (
    specs.SamplerSpec,
    specs.LogitsProcessorSpec,
    specs.Sampler,
    specs.LogitsProcessor,
    specs.RowContext,
    specs.ResponseCache,
    specs.CacheStats,
    parsing.ModelTraits,
    parsing.ToolParserSpec,
    parsing.ReasoningParserSpec,
    parsing.OutputParser,
    parsing.Content,
    parsing.Thought,
    parsing.Call,
    parsing.CallBegun,
    parsing.CallArguments,
    parsing.Tool,
    parsing.CallSyntax,
    parsing.CallGrammar,
    vision.ModelFiles,
    vision.VisionPreprocessorSpec,
    vision.PreparedImage,
    vision.VisionEncoderSpec,
    vision.VisionEncoder,
    vision.ModelLoaderSpec,
    specs.OutputFilter,
    specs.EndText,
    specs.RequestRecord,
    specs.Route,
    specs.CommandSpec,
)


def reference() -> str:
    """The text of docs/hooks.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Hooks"
    yield ""
    yield "<!-- Written by `make docs`; do not edit. -->"
    yield ""
    # The first line of the docstring is the module's summary, this page has a title.
    yield inspect.cleandoc(hookspecs.__doc__ or "").partition("\n\n")[2]
    yield ""
    yield "[Writing a plugin](writing-a-plugin.md) shows how to make one."
    for name, ring in RINGS.items():
        hook = getattr(hookspecs, name)
        yield f"\n## `{name}`\n"
        yield f"Runs in: {ring}.\n"
        yield f"```python\ndef {name}{_signature(hook)}\n```\n"
        yield inspect.cleandoc(hook.__doc__)
    yield "\n# What they return and take\n"
    yield "They are in `budmlx.plugins.specs`, those of parsers in `budmlx.plugins.parsing`, those"
    yield "of vision and loaders in `budmlx.plugins.vision`."
    for kind in SHOWN:
        yield f"\n## `{kind.__name__}`\n"
        yield inspect.cleandoc(kind.__doc__ or "")
        for name, method in vars(kind).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                yield f"\n```python\ndef {name}{_signature(method)}\n```\n"
                yield inspect.cleandoc(method.__doc__ or "")


def _signature(function: object) -> str:
    assert callable(function)
    return str(inspect.signature(function)).replace("'", "")
