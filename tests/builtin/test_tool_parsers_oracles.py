"""The same calls are found as by the parsers of mlx-lm, which read one complete call."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlx_lm import tool_parsers

from budmlx.builtin.tool_parsers import MLX_LM_NAMES, provide_tool_parser
from budmlx.plugins.parsing import Call, ModelTraits, Tool
from tests.amount import examples

Arguments = Mapping[str, Any]

PARAMETERS = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "sure": {"type": "boolean"},
        "items": {"type": "array"},
        "more": {"type": "object"},
    },
}
TOOL = Tool("do_it", "", PARAMETERS)
# As mlx-lm takes tools.
WIRE = [{"type": "function", "function": {"name": "do_it", "parameters": PARAMETERS}}]

# Their parsers strip text, and some look for quotes and brackets in it.
WORDS = st.text("abcXYZ.!? \u00e9\u4f60", min_size=1).map(str.strip).filter(bool)
LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | WORDS
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": WORDS,
        "count": st.integers(-(10**9), 10**9),
        "ratio": st.floats(-1e6, 1e6).filter(lambda x: x != int(x)),
        "sure": st.booleans(),
        "items": st.lists(NESTED, max_size=3),
        "more": st.dictionaries(st.sampled_from("ab"), NESTED),
    },
)


def bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_object(arguments: Arguments) -> str:
    return json.dumps({"name": "do_it", "arguments": arguments})


def as_glm(arguments: Arguments) -> str:
    pairs = (
        f"<arg_key>{key}</arg_key>\n<arg_value>{bare(value)}</arg_value>\n"
        for key, value in arguments.items()
    )
    return f"do_it\n{''.join(pairs)}"


def as_qwen(arguments: Arguments) -> str:
    pairs = (
        f"<parameter={key}>\n{bare(value)}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"\n<function=do_it>\n{''.join(pairs)}</function>\n"


def as_minimax(arguments: Arguments) -> str:
    pairs = (
        f'<parameter name="{key}">{bare(value)}</parameter>\n' for key, value in arguments.items()
    )
    return f'\n<invoke name="do_it">\n{"".join(pairs)}</invoke>\n'


def gemma_value(value: Any, quote: str) -> str:
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, list):
        return f"[{','.join(gemma_value(item, quote) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{key}:{gemma_value(item, quote)}" for key, item in value.items())
        return f"{{{','.join(pairs)}}}"
    return json.dumps(value)


def as_gemma(arguments: Arguments) -> str:
    return "call:do_it" + gemma_value(arguments, '<|"|>')


def as_function_gemma(arguments: Arguments) -> str:
    plain = {key: v for key, v in arguments.items() if not isinstance(v, list | Mapping)}
    return "call:do_it" + gemma_value(plain, "<escape>")


def as_kimi(arguments: Arguments) -> str:
    return (
        f"<|tool_call_begin|>functions.do_it:0<|tool_call_argument_begin|>"
        f"{json.dumps(arguments)}<|tool_call_end|>"
    )


def as_python(arguments: Arguments) -> str:
    return f"[do_it({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"


def as_muse(arguments: Arguments) -> str:
    pairs = (
        f'<atem:parameter name="{key}">{bare(value)}</atem:parameter>\n'
        for key, value in arguments.items()
    )
    return f'\n<atem:invoke name="do_it">\n{"".join(pairs)}</atem:invoke>\n'


def as_minicpm(arguments: Arguments) -> str:
    pairs = (f'<param name="{key}">{bare(value)}</param>' for key, value in arguments.items())
    return f'"do_it">{"".join(pairs)}'


def as_k3(arguments: Arguments) -> str:
    pairs = (
        f'<|open|>argument key="{key}" type="{"string" if isinstance(value, str) else "object"}"'
        f"<|sep|>{bare(value)}<|close|>argument<|sep|>"
        for key, value in arguments.items()
    )
    call = f'<|open|>call tool="do_it" index="1"<|sep|>{"".join(pairs)}'
    return f"{call}<|close|>call<|sep|>"


def as_longcat(arguments: Arguments) -> str:
    return as_glm(arguments).replace("<", "<longcat_").replace("<longcat_/", "</longcat_")


def as_named(arguments: Arguments) -> str:
    return f"do_it[ARGS]{json.dumps(arguments)}"


def as_list(arguments: Arguments) -> str:
    return f"[{as_object(arguments)}]"


FORMATS: list[tuple[str, str, Callable[[Arguments], str]]] = [
    ("hermes", "json_tools", as_object),
    ("glm", "glm47", as_glm),
    ("glm", "laguna", as_glm),
    ("qwen3-coder", "qwen3_coder", as_qwen),
    ("minimax-m2", "minimax_m2", as_minimax),
    ("kimi-k2", "kimi_k2", as_kimi),
    ("mistral", "mistral", as_named),
    ("mistral", "mistral", as_list),
    ("lfm2", "pythonic", as_python),
    ("gemma4", "gemma4", as_gemma),
    ("function-gemma", "function_gemma", as_function_gemma),
    ("muse", "muse_spark", as_muse),
    ("minicpm5", "minicpm5", as_minicpm),
    ("kimi-k3", "kimi_k3", as_k3),
    ("longcat", "longcat", as_longcat),
]


def test_all_that_mlx_lm_reads_is_read() -> None:
    theirs = {module.name for module in pkgutil.iter_modules(tool_parsers.__path__)}
    assert theirs == {module for _, module, _ in FORMATS} == set(MLX_LM_NAMES)
    for family, module, _ in FORMATS:
        traits = ModelTraits("", "nothing of a format", tool_parser=module)
        spec = provide_tool_parser("auto", traits)
        assert spec is not None and spec.name == family == MLX_LM_NAMES[module]


@pytest.mark.parametrize(("family", "module", "write"), FORMATS)
@settings(max_examples=examples(20), deadline=None)
@given(arguments=ARGUMENTS)
def test_mlx_lm_reads_the_same(
    family: str, module: str, write: Callable[[Arguments], str], arguments: Arguments
) -> None:
    assume(arguments or module != "longcat")  # theirs cannot read a call without arguments
    theirs = importlib.import_module(f"mlx_lm.tool_parsers.{module}")
    body = write(arguments)
    expected = theirs.parse_tool_call(body, WIRE)
    expected = expected[0] if isinstance(expected, list) else expected
    spec = provide_tool_parser(family, ModelTraits("", ""))
    assert spec is not None
    text = f"{theirs.tool_call_start}{body}{theirs.tool_call_end}"
    (call,) = spec.make((TOOL,), False).push(text, True)
    assert isinstance(call, Call)
    assert (call.name, json.loads(call.arguments)) == ("do_it", expected["arguments"])
