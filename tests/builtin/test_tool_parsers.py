"""Tool-call parsers read what models write, however it is cut."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.builtin.reasoning import BLOCKS, CHANNELS
from budmlx.builtin.tool_parsers import FAMILIES, provide_tool_parser
from budmlx.builtin.tool_parsers.json_text import MAX_DEPTH
from budmlx.plugins.parsing import (
    Call,
    CallArguments,
    CallBegun,
    Content,
    ModelTraits,
    Piece,
    Tool,
    ToolParserSpec,
)
from budmlx.testing import check_tool_parser
from budmlx.testing.parsers import Found
from tests.amount import examples
from tests.builtin.call_samples import (
    HARMONY_HEAD,
    KIMI_IDS,
    KIMI_WEATHER,
    LLAMA_CALL,
    PARIS,
    TOOLS,
    Sample,
    hermes,
)
from tests.builtin.newest_call_samples import SAMPLES

NOBODY = ModelTraits("", "")
ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "examples" / "train_tiny" / "chat_template.jinja"
PAGE = ROOT / "docs" / "parsers.md"


def parser(name: str, model: ModelTraits = NOBODY) -> ToolParserSpec:
    spec = provide_tool_parser(name, model)
    assert spec is not None
    return spec


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.family}-{sample.text}")
def test_samples(sample: Sample) -> None:
    spec = parser(sample.family)
    check_tool_parser(spec, sample.text, *sample.calls, content=sample.content, tools=TOOLS)


def test_every_family_has_samples() -> None:
    assert {sample.family for sample in SAMPLES} == {family.name for family in FAMILIES}


# Anything at all


def fragments(family: str) -> list[str]:
    """Pieces of what a family writes, cut where its markers begin and end."""
    texts = [sample.text for sample in SAMPLES if sample.family == family]
    places = {text[start : start + 9] for text in texts for start in range(0, len(text), 9)}
    form = next(f for f in FAMILIES if f.name == family).form
    markers = {*form.openers, *form.closers, *form.ends, *parser(family).visible, form.bare}
    return sorted({*texts, *places, *markers, " ", "\n", "{", "}", '"', "\\", "<", "[", "x"} - {""})


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_random_text_is_read_the_same_however_it_is_cut(family: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(fragments(family)), max_size=12)))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    for in_pieces in (False, True):
        whole = Found(parser(family).make(TOOLS, in_pieces), [text])
        for pieces in (cut, [*text, ""]):
            assert vars(Found(parser(family).make(TOOLS, in_pieces), pieces)) == vars(whole)
        assert whole.calls or in_pieces or whole.content == text


# Streams


def pushed(spec: ToolParserSpec, *texts: str, in_pieces: bool = True) -> list[Sequence[Piece]]:
    made = spec.make(TOOLS, in_pieces)
    return [made.push(text, number == len(texts)) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_only_what_may_become_a_marker_is_held_back(family: str) -> None:
    made = parser(family).make(TOOLS, True)
    text = "So 1 is less, is it? Well, a {b} or c(d) of (e)"
    given = ""
    for number, char in enumerate(text, 1):
        given += "".join(
            piece.text for piece in made.push(char, False) if isinstance(piece, Content)
        )
        assert given == text[:number].rstrip()


@pytest.mark.parametrize(
    ("family", "head", "tail"),
    [
        ("hermes", '<tool_call>{"name": "get_weather"', f', "arguments": {PARIS}}}</tool_call>'),
        ("llama", '{"name": "get_weather", "parameters": ', f"{PARIS}}}"),
        ("mistral", "[TOOL_CALLS]get_weather[ARGS]", PARIS),
        ("mistral", '[TOOL_CALLS][{"name": "get_weather"', f', "arguments": {PARIS}}}]'),
        ("kimi-k2", *KIMI_WEATHER.split(PARIS)[:1], f"{PARIS}<|tool_call_end|>"),
        ("harmony", HARMONY_HEAD, PARIS),
    ],
)
def test_a_call_begins_with_its_name(family: str, head: str, tail: str) -> None:
    begun, *rest = pushed(parser(family), head, *tail)
    assert begun == [CallBegun("get_weather", KIMI_IDS[0] if family == "kimi-k2" else None)]
    arguments = [piece for pieces in rest for piece in pieces]
    assert all(isinstance(piece, CallArguments) for piece in arguments)
    assert [p.text for p in arguments if isinstance(p, CallArguments)] == list(PARIS)


def test_an_object_without_a_marker_is_no_call_before_its_arguments() -> None:
    first, rest = pushed(parser("llama"), '{"name": "Paris", ', '"population": 2}')
    assert first == [] and rest == [Content('{"name": "Paris", "population": 2}', 0)]


@pytest.mark.parametrize(
    ("family", "text", "arguments", "after"),
    [
        ("hermes", hermes("f", '{"a": oops}') + "So", '{"a": oops}', "So"),
        ("hermes", hermes("f", '{"a": <b>}') + " So", '{"a": ', " So"),
        (
            "hermes",
            f'<tool_call>{{"name": "f", "arguments": {{"a": {hermes("g", "{}")}',
            '{"a": ',
            None,
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a', '{"a', ""),
        ("llama", LLAMA_CALL.replace("2}", "2 3}"), PARIS.replace("2}", "2 3}"), "}"),
        ("mistral", "[TOOL_CALLS]f[ARGS]{<} So", "{", "<} So"),
        ("harmony", f"{HARMONY_HEAD}{{<}}<|end|>So", "{", "So"),
    ],
)
def test_a_call_that_breaks_in_pieces_ends_at_its_marker(
    family: str, text: str, arguments: str, after: str | None
) -> None:
    spec = parser(family)
    for cut in ([text], [*text, ""]):
        found = Found(spec.make(TOOLS, True), cut)
        assert found.calls[0].arguments == arguments
        assert found.content == (after or "")
        assert found.calls[1:] == ([Call("g", "{}")] if after is None else [])


@pytest.mark.parametrize(
    "wrong",
    ['{"a": "b" c', '{"a": "b" "c"', '{"a"} x', '{"a": 1]', "{<", '{"a": "b\n', "[1, 2]}", "1 "],
)
def test_a_broken_call_is_given_up_at_once(wrong: str) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {wrong}'
    pieces = parser("hermes").make(TOOLS, False).push(text + ", so ", False)
    assert [piece for piece in pieces if isinstance(piece, Content)] == pieces != []


@pytest.mark.parametrize("family", ["hermes", "pythonic", "gemma4"])
def test_depth_is_bounded(family: str) -> None:
    for depth, known in ((MAX_DEPTH - 2, True), (MAX_DEPTH + 2, False), (50_000, False)):
        value = "[" * depth + "]" * depth
        text = {
            "hermes": hermes("f", f'{{"a": {value}}}'),
            "pythonic": f"[f(a={value})]",
            "gemma4": f"<|tool_call>call:f{{a:{value}}}<tool_call|>",
        }[family]
        pieces = parser(family).make(TOOLS, False).push(text, True)
        assert pieces == [Call("f", f'{{"a": {value}}}') if known else Content(text, 0)]


# Families and models


@pytest.mark.parametrize(
    ("name", "template", "tokens"),
    [
        ("hermes", TINY.read_text("utf-8"), ""),
        ("hermes", 'tools <tool_call>\n{"name": <function-name>', "<tool_call>"),
        ("hermes", "a template that writes {{ tools }} somehow", ""),
        ("qwen3-coder", "tools <tool_call>\n<function=example>", "<tool_call>"),
        ("qwen3-coder", r"tools '<tool_call>\n<function=example>'", "<tool_call>"),
        ("glm", "tools <tool_call>{name}\n<arg_key>{key}</arg_key>", "<tool_call>"),
        ("longcat", "tools <longcat_tool_call>{name}\n<longcat_arg_key>", ""),
        ("minimax-m2", "tools <minimax:tool_call>", ""),
        ("kimi-k2", "tools <|tool_calls_section_begin|>", ""),
        ("deepseek", "tools <\uff5ctool\u2581calls\u2581begin\uff5c>", ""),
        ("mistral", "tools [TOOL_CALLS]", ""),
        ("harmony", "tools", "<|constrain|>"),
        ("gemma4", "tools <|tool_call>call: <tool_call|>", ""),
        ("function-gemma", "tools <start_function_call>", ""),
        ("cohere", "tools <|START_ACTION|>", ""),
        ("granite", "tools <|tool_call|>", ""),
        ("lfm2", "tools", "<|tool_call_start|>"),
        ("pythonic", "tools [func_name1(param1=value1)", "<|python_start|>"),
        ("llama", 'tools {"name": function name, "parameters": dictionary', "<|python_tag|>"),
        ("llama", "tools", "<|python_tag|>"),
        ("muse", "tools <atem:function_calls>", ""),
        ("minicpm5", 'tools <function name="f"><param name="p">', ""),
        ("kimi-k3", "tools", "<|end_of_msg|>"),
        (None, "no such thing", "<|python_tag|>"),
        (None, "", ""),
    ],
)
def test_models_choose_a_family(name: str | None, template: str, tokens: str) -> None:
    spec = provide_tool_parser("auto", ModelTraits("any", template, frozenset({tokens})))
    assert (spec.name if spec else None) == name


def test_a_format_that_is_guessed_is_not_forced() -> None:
    guess = parser("auto", ModelTraits("any", "a template that writes {{ tools }} somehow"))
    assert guess.guessed and guess.syntax is None
    for known in (parser("hermes"), parser("auto", ModelTraits("any", "tools <tool_call>"))):
        assert not known.guessed and known.syntax is not None


def test_names() -> None:
    for family in FAMILIES:
        assert parser(family.name).name == family.name
    assert provide_tool_parser("nope", NOBODY) is None
    assert "<tool_call>" in parser("hermes").visible
    assert set(parser("mistral").visible) == {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}
    assert '<|"|>' in parser("gemma4").visible


def test_the_page_lists_all_families() -> None:
    calls, _, reasoning = PAGE.read_text("utf-8").partition("## Reasoning")
    for page, names in (
        (calls, {family.name for family in FAMILIES}),
        (reasoning, {family.name for family in (*CHANNELS, *BLOCKS)}),
    ):
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        listed = {
            name for row in rows[1:] for name in re.findall(r"`([\w.-]+)`", row.split(" | ")[0])
        }
        assert listed == names


# Hostile text

SIZE = 520_000


def hostile(family: str) -> dict[str, str]:
    """Long texts that begin things and do not end them."""
    form = next(f for f in FAMILIES if f.name == family).form
    head = next(sample.text for sample in SAMPLES if sample.family == family and sample.calls)
    units = [*form.openers, *(opener[:-1] for opener in form.openers), "<", "[", "{", " "]
    units += [head[: len(head) * part // 10] for part in (2, 4, 8)]
    texts = {unit: unit * (SIZE // len(unit) + 1) for unit in units}
    begun = head[: len(head) * 6 // 10]
    for unit in ("ab ", '"', "[", "<", "\\", "{a:"):
        texts[f"{begun} {unit}"] = begun + unit * (SIZE // len(unit))
    return texts


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_hostile_text_is_survived(family: str) -> None:  # LIMITS 76
    spec = parser(family)
    for text in hostile(family).values():
        text = text[:20_000]
        found = Found(spec.make(TOOLS, False), [text])
        assert vars(
            Found(spec.make(TOOLS, False), [text[:7], text[7:9_999], text[9_999:]])
        ) == vars(found)
        assert found.calls or found.content == text


@pytest.mark.limits
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_time_is_linear(family: str) -> None:
    spec = parser(family)
    for name, text in hostile(family).items():
        for size in (SIZE, 4):
            made = spec.make(TOOLS, True)
            begun = time.process_time()
            for start in range(0, SIZE, size):
                made.push(text[start : start + size], False)
            made.push("", True)
            spent = time.process_time() - begun
            assert spent < (0.6 if size == SIZE else 2.0), (name[:40], size, spent)


def test_a_tool_of_any_schema_is_read() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=a>\n5\n</parameter>\n</function>\n</tool_call>"
    odd: list[object] = [
        5,
        [],
        {"type": 5},
        {"type": ["integer", 3]},
        {"anyOf": 7},
        {"$ref": "#/x"},
    ]
    odd += [{"$ref": "#"}, {"$ref": "#/properties/a"}, {"enum": "x"}, None]
    for schema in odd:
        tool = Tool("f", "", {"type": "object", "properties": {"a": schema}})
        (call,) = parser("qwen3-coder").make((tool,), False).push(text, True)
        assert isinstance(call, Call) and call.arguments in ('{"a": 5}', '{"a": "5"}')
    for parameters in ({"properties": 5}, {"properties": []}, {}):
        (call,) = parser("qwen3-coder").make((Tool("f", "", parameters),), False).push(text, True)
        assert call == Call("f", '{"a": 5}')
