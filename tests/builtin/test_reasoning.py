"""Reasoning parsers tell thoughts from content, however the text is cut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.builtin.reasoning import BLOCKS, CHANNELS, provide_reasoning_parser
from budmlx.builtin.tool_parsers import provide_tool_parser
from budmlx.plugins.parsing import ModelTraits, ReasoningParserSpec, Tool
from budmlx.testing import check_reasoning_parser
from budmlx.testing.parsers import Found
from tests.amount import examples
from tests.builtin.call_samples import HARMONY_HEAD, PARIS, WEATHER_CALL
from tests.builtin.newest_call_samples import MUSE_CALL

NOBODY = ModelTraits("", "")
TINY = Path(__file__).parent.parent.parent / "examples" / "train_tiny" / "chat_template.jinja"
NAMES = [family.name for family in (*CHANNELS, *BLOCKS)]


def parser(name: str, model: ModelTraits = NOBODY) -> ReasoningParserSpec:
    spec = provide_reasoning_parser(name, model)
    assert spec is not None
    return spec


# Family, end of the prompt, text, reasoning, content.
SAMPLES = [
    ("think", "", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    ("think", "", "\n<think>Hm.</think>Yes.\n", "Hm.", "Yes.\n"),
    ("think", "", "<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("think", "", "<think></think>\n\n\n\nYes.", "", "\n\nYes."),
    ("think", "", "<think>a\n\n\n\nb\n\n\n</think>x", "a\n\n\n\nb\n", "x"),
    ("think", "", "<think>\nHm, </thin", "Hm, </thin", ""),
    ("think", "", "<think>\nHm.\n\n", "Hm.\n\n", ""),
    ("think", "", "<think>", "", ""),
    ("think", "", "<thi", "", "<thi"),
    ("think", "", "", "", ""),
    ("think", "", " \n", "", " \n"),
    ("think", "", "The <think> tag opens <think>a</think>.", "", None),
    ("think", "", "<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ("think", "assistant\n<think>\n", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
    ("think", "<\uff5cAssistant\uff5c><think>", "Hm.</think>Yes.", "Hm.", "Yes."),
    ("think", "assistant\n<think>\nSo far", ", so good</think>Yes.", ", so good", "Yes."),
    ("think", "assistant\n<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
    ("think", "What is <think>?<|im_end|>\n<|im_start|>assistant\n", "Yes.", "", "Yes."),
    ("think", "[INST]What is <think>?[/INST]", "Yes.", "", "Yes."),
    ("magistral", "", "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    ("magistral", "", "So [THINK]Hm.[/THINK]Yes[THINK]x", "Hm.x", "So Yes"),
    ("gemma4", "", "<|channel>thought\nHm.\n<channel|>Yes.", "Hm.", "Yes."),
    ("gemma4", "model\n<|channel>thought\n<channel|>", "Yes.", "", "Yes."),
    ("gemma4", "<tool_response|><|channel>thought\n", "Hm.<channel|>Yes.", "Hm.", "Yes."),
    (
        "cohere",
        "",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
        "Hm.",
        "Yes.",
    ),
    (
        "granite",
        "",
        "Here is my thought process:\nHm.\n\nHere is my response:\nYes.",
        "Hm.",
        "Yes.",
    ),
    ("granite", "", "Here's my thought process: a Here is my", " a Here is my", ""),
    ("granite", "", "Here is my answer.", "", None),
    ("seed", "", "<seed:think>Hm.</seed:think>Yes.", "Hm.", "Yes."),
    ("longcat", "", "<longcat_think>\nHm.\n</longcat_think>\nYes.", "Hm.", "Yes."),
    ("kimi-k3", "", "<|open|>think<|sep|>Hm.<|close|>think<|sep|>Yes.", "Hm.", "Yes."),
    (
        "kimi-k3",
        "<|open|>think<|sep|>",
        "Hm.<|close|>think<|sep|><|open|>response<|sep|>Yes.<|close|>response<|sep|>",
        "Hm.",
        "Yes.",
    ),
    ("think-tokens", "", "<|think:start|>\nHm.\n<|think:end|>\nYes.", "Hm.", "Yes."),
    ("muse", "<|start|>assistant", " to=user<|message|>Hello there.", "", "Hello there."),
    (
        "muse",
        "<|start|>assistant",
        " to=self<|message|>Hmm.<|eom|><|start|>assistant to=user<|message|>Hello.<|eot|>",
        "Hmm.",
        "Hello.",
    ),
    ("muse", "<|start|>assistant to=self<|message|>", "Hmm.<|eom|>", "Hmm.", ""),
    ("muse", "", " to=user<|mess", "", None),
    ("muse", "", "to= or not", "", None),
    ("muse", "", f" to=get_weather<|message|>{MUSE_CALL}<|eot|>", "", None),
    (
        "harmony",
        "<|start|>assistant",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        "Yes.<|return|>",
        "Hm.",
        "Yes.",
    ),
    (
        "harmony",
        "",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look.<|end|><|start|>assistant<|channel|>analysis<|message|> So.",
        "Hm. So.",
        "I look.",
    ),
    ("harmony", "<|start|>assistant<|channel|>analysis<|message|>", "Hm.<|end|>", "Hm.", ""),
    ("harmony", "<|start|>assistant<|channel|>ana", "lysis<|message|>Hm.", "Hm.", ""),
    ("harmony", "<|start|>assistant<|channel|>final<|message|>", "Yes.", "", "Yes."),
    ("harmony", "", '{"answer": 42}', "", None),
    ("harmony", "", "<|channel|>final<|message|>", "", ""),
    ("harmony", "", "<|channel|>fin", "", None),
    ("harmony", "", "<|message|>Yes.<|end|>", "", "Yes."),
    ("harmony", "", "to= or not", "", None),
    ("harmony", "", f"{HARMONY_HEAD}{PARIS}<|call|>", "", None),
    (
        "harmony",
        "",
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{HARMONY_HEAD}{PARIS}",
        "Hm.",
        f"<|start|>assistant{HARMONY_HEAD}{PARIS}",
    ),
]


@pytest.mark.parametrize(("name", "prompt", "text", "thought", "content"), SAMPLES)
def test_samples(name: str, prompt: str, text: str, thought: str, content: str | None) -> None:
    expected = text if content is None else content
    check_reasoning_parser(parser(name), text, thought=thought, content=expected, prompt=prompt)


def test_every_family_has_samples() -> None:
    assert {name for name, *_ in SAMPLES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_random_text_is_read_the_same_however_it_is_cut(name: str, data: st.DataObject) -> None:
    texts = [text for family, _, text, _, _ in SAMPLES if family == name]
    prompts = [prompt for family, prompt, _, _, _ in SAMPLES if family == name]
    parts = sorted({text[n : n + 7] for text in texts for n in range(0, len(text), 7)} - {""})
    spec = parser(name)
    parts += [text for text in (*spec.visible, spec.begin, spec.end) if text]
    text = "".join(data.draw(st.lists(st.sampled_from([*parts, "\n", " ", "<"]), max_size=12)))
    prompt = data.draw(st.sampled_from(prompts))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    whole = Found(spec.make(prompt), [text])
    for pieces in (cut, [*text, ""]):
        assert vars(Found(spec.make(prompt), pieces)) == vars(whole)
    assert len(whole.content) + len(whole.thought) <= len(text)


def test_thoughts_come_at_once_but_for_what_may_end_them() -> None:
    made = parser("think").make("<think>\n")
    given = ""
    for number, char in enumerate("a < b\n\nc", 1):
        given += "".join(getattr(piece, "text", "") for piece in made.push(char, False))
        text = "a < b\n\nc"[:number]
        assert given == text.removesuffix("<").rstrip("\n")


def calls_behind(name: str, tools: str, text: str) -> tuple[str, Sequence[object], str]:
    """What a tool parser finds in the content that a reasoning parser leaves."""
    found = Found(parser(name).make(""), [text])
    spec = provide_tool_parser(tools, NOBODY)
    assert spec is not None
    behind = Found(spec.make((Tool("get_weather"),), False), [found.content])
    return found.thought, behind.calls, behind.content


def test_a_tool_parser_reads_what_is_left() -> None:
    header = f"<|start|>assistant{HARMONY_HEAD}"
    text = f"<|channel|>analysis<|message|>Hm.<|end|>{header}{PARIS}<|call|>"
    assert calls_behind("harmony", "harmony", text) == ("Hm.", [WEATHER_CALL], "")
    thought = " to=self<|message|>Hm.<|eom|><|start|>assistant to=get_weather<|message|>"
    assert calls_behind("muse", "muse", f"{thought}{MUSE_CALL}<|eot|>") == (
        "Hm.",
        [WEATHER_CALL],
        "",
    )
    other = f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}<|call|>"
    assert calls_behind("harmony", "harmony", other) == ("", [WEATHER_CALL], "")
    preamble = f"<|channel|>commentary<|message|>I look.<|end|>{header}{PARIS}"
    assert calls_behind("harmony", "harmony", preamble) == ("", [WEATHER_CALL], "I look.")
    call = f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}}}</tool_call>'
    assert calls_behind("think", "hermes", f"<think>{call}</think>\n\n{call}") == (
        call,
        [WEATHER_CALL],
        "",
    )


@pytest.mark.parametrize(
    ("name", "template", "tokens"),
    [
        ("think", TINY.read_text("utf-8"), ""),
        ("think", "", "<think>"),
        ("think", "{{ content.split('</think>')[-1] }}", ""),
        ("magistral", "[THINK]", ""),
        ("gemma4", "<|channel>thought <channel|>", ""),
        ("cohere", "", "<|START_THINKING|>"),
        ("granite", "Write 'Here is my thought process:' first", ""),
        ("seed", "<seed:think>", ""),
        ("longcat", "<longcat_think>", ""),
        ("harmony", "<|start|>assistant", "<|constrain|>"),
        ("muse", "<atem:function_calls>", "<|eom|>"),
        ("kimi-k3", "", "<|end_of_msg|>"),
        ("think-tokens", "", "<|think:start|>"),
        (None, "nothing", "<|im_end|>"),
    ],
)
def test_models_choose_a_family(name: str | None, template: str, tokens: str) -> None:
    model = ModelTraits("any", template, frozenset({tokens}))
    spec = provide_reasoning_parser("auto", model)
    assert (spec.name if spec else None) == name


def test_names() -> None:
    for name in NAMES:
        assert parser(name).name == name
    assert provide_reasoning_parser("nope", NOBODY) is None
    think = parser("think")
    assert (think.begin, think.end, think.visible) == (
        "<think>",
        "</think>",
        ("<think>", "</think>"),
    )
    assert parser("gemma4").visible == ("<|channel>", "<channel|>")
    assert parser("granite").visible == ()


@pytest.mark.limits
@pytest.mark.parametrize("name", NAMES)
def test_time_is_linear(name: str) -> None:
    spec = parser(name)
    units = [spec.begin, spec.end, spec.begin[:-1], *spec.visible, "\n", " ", "<", "ab ", "to="]
    for unit in filter(None, units):
        text = spec.begin + unit * (520_000 // len(unit))
        for size in (len(text), 4):
            made = spec.make("")
            begun = time.process_time()
            for start in range(0, len(text), size):
                made.push(text[start : start + size], False)
            made.push("", True)
            spent = time.process_time() - begun
            assert spent < (0.6 if size == len(text) else 2.0), (unit, size, spent)
