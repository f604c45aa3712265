"""Reference of all hooks, made from their specs; `make docs` writes it to docs/hooks.md."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from budmlx import types
from budmlx.plugins import hookspecs, options, parsing, settings, specs, vision
from budmlx.plugins.hookspecs import RINGS
from budmlx.types import events, request

SHOWN: tuple[type, ...] = (
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
    parsing.ReasoningMarkup,
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
    options.Vocabulary,
    types.Message,
    types.TextPart,
    types.ImagePart,
    types.ToolCall,
    types.Usage,
    types.Timing,
)
"""The classes of all values that a hook gets or returns, or that such a value has."""

ALIASES: Mapping[str, ModuleType] = MappingProxyType(
    {
        "Array": specs,
        "State": specs,
        "MessageTransform": specs,
        "OutputFilterFactory": specs,
        "TokenId": options,
        "TokenIds": options,
        "Piece": parsing,
        "Pixels": vision,
        "Detail": vision,
        "Role": request,
        "Part": request,
        "FinishReason": events,
        "MissReason": events,
        "RequestEnd": specs,
    }
)
"""Further names of types, and where they are defined."""


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
    yield "\n# Settings of plugins\n"
    yield inspect.cleandoc(settings.__doc__ or "").partition("\n\n")[2]
    yield "\n# What they return and take\n"
    yield "They are in `budmlx.plugins.specs`, those of parsers in `budmlx.plugins.parsing`, those"
    yield "of vision and loaders in `budmlx.plugins.vision`, those of options that name tokens in"
    yield "`budmlx.plugins.options`; messages, usage and timing are in `budmlx.types`. `config` is"
    yield "a `budmlx.config.Config`, whose fields are the [settings](configuration.md)."
    for kind in SHOWN:
        yield f"\n## `{kind.__name__}`\n"
        yield f"```python\n{definition(kind)}\n```\n"
        yield inspect.cleandoc(kind.__doc__ or "")
        for name, method in _methods(kind):
            yield f"\n```python\n{_defined(name, method)}\n```\n"
            yield inspect.cleandoc(method.__doc__ or "")
    yield "\n# Names of types"
    for name, module in ALIASES.items():
        value, says = _alias(name, module)
        yield f"\n## `{name}`\n\n```python\n{name} = {value}\n```"
        if says:
            yield f"\n{says}"


def definition(kind: type) -> str:
    """The fields of a class as Python declares them, or its name if it has methods alone."""
    annotations = inspect.get_annotations(kind)
    if dataclasses.is_dataclass(kind):
        fields = [f"{each.name}: {each.type}{_default(each)}" for each in dataclasses.fields(kind)]
    else:
        fields = [f"{name}: {annotation}" for name, annotation in annotations.items()]
    if not fields:
        return f"class {kind.__name__}: ..."
    return "\n    ".join([f"class {kind.__name__}:", *fields]).replace("'", '"')


def _default(field: dataclasses.Field[object]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return "" if field.default is dataclasses.MISSING else f" = {field.default!r}"


def _methods(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods, class methods and properties."""
    for name, value in vars(kind).items():
        wanted = inspect.isfunction(value) or isinstance(value, property | classmethod)
        if wanted and not name.startswith("_"):
            yield name, value


def _defined(name: str, method: object) -> str:
    if isinstance(method, property):
        return f"@property\ndef {name}{_signature(method.fget)}"
    if isinstance(method, classmethod):
        return f"@classmethod\ndef {name}{_signature(method.__func__)}"
    return f"def {name}{_signature(method)}"


def _alias(name: str, module: ModuleType) -> tuple[str, str]:
    """What a name stands for, and the text below it."""
    source = Path(module.__file__ or "").read_text("utf-8")
    body = ast.parse(source).body
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            says = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                says = inspect.cleandoc(str(after.value.value))
            return ast.get_source_segment(source, statement.value) or "", says
    raise LookupError(name)


def _signature(function: object) -> str:
    assert callable(function)
    return str(inspect.signature(function)).replace("'", "")
