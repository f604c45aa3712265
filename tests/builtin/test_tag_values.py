"""Values between tags come back as they were written, whatever tags they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.builtin.tool_parsers import provide_tool_parser
from budmlx.plugins.parsing import (
    Call,
    Content,
    FinishedParser,
    ModelTraits,
    Piece,
    Tool,
    ToolParserSpec,
)
from budmlx.testing import check_tool_parser
from tests.amount import examples, usually

STRING = {"type": "string"}
WRITE = Tool("write", "", {"type": "object", "properties": {"path": STRING, "content": STRING}})


def qwen(value: str) -> str:
    return (
        "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n"
        f"<parameter=content>\n{value}\n</parameter>\n</function>\n</tool_call>"
    )


def glm(value: str) -> str:
    return (
        "<tool_call>write<arg_key>path</arg_key><arg_value>a</arg_value>"
        f"<arg_key>content</arg_key><arg_value>{value}</arg_value></tool_call>"
    )


def longcat(value: str) -> str:
    return (
        "<longcat_tool_call>write\n<longcat_arg_key>path</longcat_arg_key>\n"
        "<longcat_arg_value>a</longcat_arg_value>\n<longcat_arg_key>content</longcat_arg_key>\n"
        f"<longcat_arg_value>{value}</longcat_arg_value>\n</longcat_tool_call>"
    )


def minimax(value: str) -> str:
    return (
        '<minimax:tool_call>\n<invoke name="write">\n<parameter name="path">a</parameter>\n'
        f'<parameter name="content">{value}</parameter>\n</invoke>\n</minimax:tool_call>'
    )


FORMATS: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "qwen3-coder": (
        qwen,
        (
            "A block ends with </parameter> on its own.",
            "<a>\n</parameter>\n</a>",
            "</parameter>",
            "</parameter>\n</function>",
            "</parameter>\n</function>\n</tool_call>",
            "use </function> and </tool_call> carefully",
            "use <parameter=a> tags",
            "a\n<parameter=b>\nc",
            "<parameter=path>\nx\n</parameter>",
            "<tool_call>\n<function=write>\n</function>\n</tool_call>",
            qwen("x").replace("\n", ""),
            f"So:\n{qwen('x')}\nand more",
            qwen(qwen("x")),
            "\n\n",
            "",
        ),
    ),
    "glm": (
        glm,
        (
            "an </arg_value> inside",
            "a </tool_call> inside",
            "</arg_value>",
            "</arg_value></tool_call>",
            "<arg_key>k</arg_key> alone",
            "<arg_key>",
            f"So: {glm('x')}.",
            glm(glm("x")),
        ),
    ),
    "longcat": (longcat, ("an </longcat_arg_value> inside", longcat("x"))),
    "minimax-m2": (
        minimax,
        (
            "a </parameter> inside",
            "</parameter></invoke>",
            "</invoke>",
            'a <parameter name="q"> b',
            f"So: {minimax('x')}.",
            minimax(minimax("x")),
        ),
    ),
}
CASES = [
    (family, value, after)
    for family, (write, values) in FORMATS.items()
    for value in values
    for after in ("", "\nSo.", write("z"))
]


def parser(family: str) -> ToolParserSpec:
    spec = provide_tool_parser(family, ModelTraits("", ""))
    assert spec is not None
    return spec


def read(family: str, text: str, *, finished: bool = True) -> Sequence[Piece]:
    made = parser(family).make((WRITE,), False)
    assert isinstance(made, FinishedParser)
    given_out = [*made.push(text[:-3], False)]
    if finished:
        made.finish()
    return [*given_out, *made.push(text[-3:], True)]


def written(value: str) -> Call:
    return Call("write", json.dumps({"path": "a", "content": value}, ensure_ascii=False))


@pytest.mark.parametrize(
    "family,value,after", usually(lambda case: case[2][:1] != "<" and len(case[1]) < 45, CASES)
)
def test_values_may_hold_the_tags_of_their_format(family: str, value: str, after: str) -> None:
    text = FORMATS[family][0](value) + after
    more = [written("z")] if after[1:2] not in ("", "S") else []
    content = after if after.startswith("\nS") else ""
    check_tool_parser(parser(family), text, written(value), *more, content=content, tools=(WRITE,))
    calls = [piece for piece in read(family, text) if isinstance(piece, Call)]
    assert calls == [written(value), *more]


@pytest.mark.parametrize("family", list(FORMATS))
@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_any_value_comes_back(family: str, data: st.DataObject) -> None:
    write = FORMATS[family][0]
    lines = [line + " x" for line in write(".").replace("><", ">\n<").split("\n") if "/" in line]
    value = "".join(
        data.draw(st.lists(st.sampled_from([*lines, "<", "</", "\u00e9", " ", "\n", "a"])))
    )
    assert read(family, write(value)) == [written(value)]


@pytest.mark.parametrize(
    ("family", "text", "always"),
    [
        ("qwen3-coder", qwen("x").replace("\n</tool_call>", ""), True),
        ("qwen3-coder", qwen("x").replace("</function>\n", ""), True),
        ("qwen3-coder", qwen("x").replace("x\n</parameter>", "x"), True),
        ("qwen3-coder", qwen("x").replace("a\n</parameter>", "a"), True),
        ("qwen3-coder", qwen("x").replace("</function>\n</tool_call>", ""), False),
        ("qwen3-coder", qwen("x").partition("\n</parameter>\n</function>")[0], False),
        ("qwen3-coder", qwen("x").partition("eter>\n</function>")[0], False),
        ("glm", glm("x").replace("x</arg_value>", "x"), True),
        ("glm", glm("x").replace("a</arg_value>", "a"), True),
        ("glm", glm("x").replace("</tool_call>", ""), False),
        ("glm", glm("x").replace("</arg_value></tool_call>", ""), False),
        ("longcat", longcat("x").replace("x</longcat_arg_value>", "x"), True),
        ("minimax-m2", minimax("x").replace("\n</minimax:tool_call>", ""), True),
        ("minimax-m2", minimax("x").replace("x</parameter>", "x"), True),
        ("minimax-m2", minimax("x").partition("\n</invoke>")[0], False),
    ],
)
def test_tags_may_be_missing(family: str, text: str, always: bool) -> None:
    """At the end of the reply, that is if the model ended it: a call that is cut off is none."""
    assert read(family, text) == [written("x")]
    cut = read(family, text, finished=False)
    assert cut == ([written("x")] if always else [Content(text, 0)])
