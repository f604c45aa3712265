"""Calls that are forced are what the family's own parser reads."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from functools import cache

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tokenizers import Tokenizer as Backend

from budmlx.builtin.tool_parsers import FAMILIES
from budmlx.plugins.parsing import Call, CallSyntax, ModelTraits, Tool, ToolParserSpec
from budmlx.testing import check_tool_parser
from tests.amount import examples
from tests.builtin.call_samples import (
    DEEP,
    DEEP_END,
    DEEP_V3,
    DEEP_V31,
    FUNCTION_GEMMA_CALL,
    GEMMA_CALL,
    GLM_CALL,
    HARMONY_HEAD,
    KIMI_TIME,
    KIMI_WEATHER,
    MINIMAX_TEXT,
    PARIS,
    PYTHONIC_CALL,
    QWEN_CALL,
    SECTION,
    SECTION_END,
    TIME,
    TIME_CALL,
    TOOLS,
    WEATHER,
    WEATHER_CALL,
    hermes,
    qwen,
)
from tests.builtin.newest_call_samples import (
    K3,
    K3_END,
    K3_JSON,
    K3_TIME,
    MINICPM_CALL,
    MUSE_CALL,
    MUSE_TIME,
)
from tests.tokenizers import byte_level

# Families, what their templates show, and how both calls are written with the grammar.
WRITTEN = [
    ("hermes", "", hermes("get_weather", PARIS) + "\n" + hermes("get_time", "{}")),
    (
        "hermes",
        '<tool_call>{"name": "',
        hermes("get_weather", PARIS, "") + "\n" + hermes("get_time", "{}", ""),
    ),
    (
        "llama",
        "",
        f'{{"name": "get_weather", "parameters": {PARIS}}}; '
        '{"name": "get_time", "parameters": {}}',
    ),
    (
        "mistral",
        "",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}, '
        '{"name": "get_time", "arguments": {}}]',
    ),
    ("mistral", "[ARGS]", f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}"),
    (
        "kimi-k2",
        "",
        f"{SECTION}{KIMI_WEATHER}{KIMI_TIME.replace(':12', ':0').replace(' ', '')}{SECTION_END}",
    ),
    (
        "deepseek",
        "",
        f"{DEEP}{DEEP_V31}{DEEP_V31.replace('weather', 'time').replace(PARIS, '{}')}{DEEP_END}",
    ),
    (
        "deepseek",
        "```json",
        f"{DEEP}{DEEP_V3}\n{DEEP_V3.replace('weather', 'time').replace(PARIS, '{}')}{DEEP_END}",
    ),
    (
        "harmony",
        "",
        f"{HARMONY_HEAD}{PARIS}<|call|><|start|>assistant"
        f"{HARMONY_HEAD.replace('weather', 'time')}{{}}<|call|>",
    ),
    ("qwen3-coder", "", f"{QWEN_CALL}\n{qwen('get_time')}"),
    ("glm", "", f"{GLM_CALL}\n<tool_call>get_time\n</tool_call>"),
    (
        "glm",
        "</arg_key><arg_value>",
        f"{GLM_CALL}<tool_call>get_time</tool_call>".replace("\n", ""),
    ),
    ("minimax-m2", "", MINIMAX_TEXT),
    (
        "muse",
        "",
        f" to=get_weather<|message|>{MUSE_CALL}<|eom|><|start|>assistant to=get_time<|message|>"
        f"{MUSE_TIME}",
    ),
    ("minicpm5", "", f'{MINICPM_CALL}<function name="get_time"></function>'),
    ("kimi-k3", "", f"{K3}{K3_JSON}{K3_TIME}{K3_END}"),
    ("pythonic", "", f"[{PYTHONIC_CALL}, get_time()]"),
    ("lfm2", "", f"<|tool_call_start|>[{PYTHONIC_CALL}, get_time()]<|tool_call_end|>"),
    (
        "cohere",
        "",
        f'<|START_ACTION|>[{{"tool_name": "get_weather", "parameters": {PARIS}}}, '
        '{"tool_name": "get_time", "parameters": {}}]<|END_ACTION|>',
    ),
    (
        "granite",
        "",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {PARIS}}}, '
        '{"name": "get_time", "arguments": {}}]',
    ),
]
IDS = {"kimi-k2": ("functions.get_weather:0", "functions.get_time:0")}
UNFORCED = {"gemma4", "function-gemma"}
ALIKE = {"longcat"}  # the tags of another family with a prefix


def spec_of(name: str, template: str, tokens: frozenset[str] = frozenset()) -> ToolParserSpec:
    (family,) = (family for family in FAMILIES if family.name == name)
    return family.spec(ModelTraits("", template, tokens))


@cache
def vocabulary(tokens: tuple[str, ...]) -> tuple[Backend, LLTokenizer]:
    backend = byte_level(("<s>", "</s>", *tokens), ())
    return backend, LLTokenizer(backend.to_str(), eos_token=backend.token_to_id("</s>"))


def grammar(syntax: CallSyntax, backend: Backend, tools: tuple[Tool, ...]) -> str:
    """The grammar of one call or more, with control tokens by their numbers."""
    tokens = {t.content: n for n, t in backend.get_added_tokens_decoder().items()}
    split = re.compile(f"({'|'.join(map(re.escape, tokens))})")

    def literal(text: str) -> str:
        parts = [part for part in split.split(text) if part]
        return " ".join(f"<[{tokens[p]}]>" if p in tokens else json.dumps(p) for p in parts)

    calls = [
        f"{literal(call.begin)} {call.arguments} {literal(call.end)}"
        for call in map(syntax.call, tools)
    ]
    chain = f"call ({literal(syntax.separator)} call)*"
    return (
        f"start: {literal(syntax.open)} {chain} {literal(syntax.close)}\ncall: {' | '.join(calls)}"
    )


def matcher(syntax: CallSyntax, tokens: tuple[str, ...], tools: tuple[Tool, ...]) -> LLMatcher:
    backend, tokenizer = vocabulary(tokens)
    lark = LLMatcher.grammar_from_lark(grammar(syntax, backend, tools))
    assert not LLMatcher.validate_grammar(lark, tokenizer)
    return LLMatcher(tokenizer, lark)


def accepts(
    syntax: CallSyntax, text: str, tokens: tuple[str, ...] = (), tools: tuple[Tool, ...] = TOOLS
) -> bool:
    ids = vocabulary(tokens)[0].encode(text, add_special_tokens=False).ids
    found = matcher(syntax, tokens, tools)
    return bool(found.try_consume_tokens(ids) == len(ids) and found.is_accepting())


@pytest.mark.parametrize("with_tokens", [False, True])
@pytest.mark.parametrize(("name", "template", "text"), WRITTEN)
def test_grammars_and_parsers_agree(name: str, template: str, text: str, with_tokens: bool) -> None:
    tokens = spec_of(name, template).visible if with_tokens else ()
    spec = spec_of(name, template, frozenset(tokens))
    assert spec.syntax is not None
    assert accepts(spec.syntax, text, tokens)
    ids = IDS.get(name, (None, None))
    calls = [replace(c, id=i) for c, i in zip((WEATHER_CALL, TIME_CALL), ids, strict=True)]
    check_tool_parser(spec, text, *calls, tools=TOOLS)
    for wrong in (
        text + "x",
        text[:-1],
        text.replace("get_time", "get_other"),
        text.replace("city", "town"),
        text.replace("2", "two"),
    ):
        assert not accepts(spec.syntax, wrong, tokens), wrong


CHOICES = Tool(
    "pick",
    "",
    {
        "type": "object",
        "properties": {
            "letter": {"type": "string", "enum": ["a", 'b"<', "c\n"]},
            "number": {"type": "integer", "minimum": 0, "maximum": 99},
            "sure": {"type": ["boolean", "null"]},
            "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
        },
        "required": ["number"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": [[], [1], {"x": "y"}]}},
        "x-guidance": {"whitespace_pattern": " ?"},
    },
)


def generate(found: LLMatcher, tokens: tuple[str, ...], seed: int) -> str:
    """Draw tokens that the grammar allows until it is complete."""
    draw = random.Random(seed)
    backend, tokenizer = vocabulary(tokens)
    ids: list[int] = []
    mask = allocate_token_bitmask(1, tokenizer.vocab_size)
    while not found.is_accepting() or draw.random() < 0.5:
        fill_next_token_bitmask(found, mask)
        bits = [n for n in range(tokenizer.vocab_size) if mask[0, n // 32] >> (n % 32) & 1]
        token = draw.choice(bits)
        if token == tokenizer.eos_token:
            break
        assert found.consume_token(token)
        ids.append(token)
        assert len(ids) < 2000
    return str(backend.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(("name", "template"), sorted({(n, t) for n, t, _ in WRITTEN}))
def test_what_a_grammar_generates_is_parsed(name: str, template: str) -> None:
    tokens = spec_of(name, template).visible
    spec = spec_of(name, template, frozenset(tokens))
    assert spec.syntax is not None
    seen = set()
    for seed in range(examples(12)):
        text = generate(matcher(spec.syntax, tokens, (CHOICES,)), tokens, seed)
        pieces = spec.make((CHOICES,), False).push(text, True)
        assert pieces, text
        for piece in pieces:
            assert isinstance(piece, Call), (text, pieces)
            arguments = json.loads(piece.arguments)
            assert piece.name == "pick" and 0 <= arguments["number"] <= 99
            assert arguments.get("letter", "a") in ("a", 'b"<', "c\n")
            assert arguments.get("sure") in (None, True, False)
            assert arguments.get("places", []) in [
                [*left, *right]
                for left in ([], [[]], [[1]], [{"x": "y"}])
                for right in ([], [[]], [[1]], [{"x": "y"}])
            ]
            seen.update(arguments)
    assert seen == {"letter", "number", "sure", "places"}


def test_every_family_is_here() -> None:
    names = {name for name, _, _ in WRITTEN} | UNFORCED | ALIKE
    assert names == {family.name for family in FAMILIES}
    for family in FAMILIES:
        syntax = spec_of(family.name, "").syntax
        assert (syntax is None) == (family.name in UNFORCED)
        for tool in (WEATHER, TIME) if syntax else ():
            assert syntax is not None
            assert (syntax.open + syntax.call(tool).begin).startswith(syntax.trigger)


CLOSING = {"qwen3-coder": "</parameter>", "glm": "</arg_value>", "minimax-m2": "</parameter>"}


@pytest.mark.parametrize("name", list(CLOSING))
@pytest.mark.parametrize("listed", [False, True])
def test_text_in_tags_may_hold_anything_but_their_end(name: str, listed: bool) -> None:
    spec = spec_of(name, "")
    assert spec.syntax is not None
    properties = {"city": {}, "days": {"type": "integer"}} if listed else {}
    tool = Tool("get_weather", "", {"type": "object", "properties": properties})
    value = f' <b>"</b>\n</par</argument><</ \u00e9{CLOSING[name]} on.{CLOSING[name]}, too'
    (text,) = (text for n, template, text in WRITTEN if n == name and not template)
    text = text.replace("Paris", value)
    assert accepts(spec.syntax, text, (), (tool, TIME))
    arguments = json.dumps({"city": value, "days": 2}, ensure_ascii=False)
    check_tool_parser(spec, text, Call(tool.name, arguments), TIME_CALL, tools=(tool, TIME))


def test_gemma_reads_but_is_not_forced() -> None:
    check_tool_parser(spec_of("gemma4", ""), GEMMA_CALL, WEATHER_CALL, tools=TOOLS)
    check_tool_parser(spec_of("function-gemma", ""), FUNCTION_GEMMA_CALL, WEATHER_CALL, tools=TOOLS)
