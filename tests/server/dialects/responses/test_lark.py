"""Lark grammars become regular expressions, or it is said why not."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from budmlx.server.dialects.responses.lark import NotRegularError
from budmlx.server.dialects.responses.regular import MAX_LENGTH, RegularForm, regular_form

DEMO = Path(__file__).parents[4] / "budmlx" / "assets" / "tiny"
PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        (
            PATCH,
            [
                "*** Begin Patch\n*** Add File: a/b.py\n+x = 1\n+\n*** End Patch",
                "*** Begin Patch\n*** Update File: b\n*** Move to: c\n@@ f\n-x\n*** End Patch\n",
                "*** Begin Patch\n*** Delete File: b\n*** Delete File: c\n*** End Patch\n",
            ],
            ["*** Begin Patch\n*** End Patch", "*** Add File: a\n+x\n"],
        ),
        ('start: "a".."c" ~ 2..3', ["ab", "abc"], ["a", "abca"]),
        ('start: "[".."]" ~ 2', ["[]", "]\\"], ["a]"]),
        (
            'start: (A | B)+ ["!"]\nA: "x"i\nB: /[yz]/ | "."',
            ["Xy.!", "z"],
            ["", "!", "a", "y!!"],
        ),
        ('?start: N ("," N)*\nN: NUMBER\n%import common (NUMBER, WS)', ["1,2.5,3e4"], ["1,"]),
        ("start: X\n%import common.INT -> X  // digits", ["12"], ["a"]),
        ('start: "a"\n  | "b"\n  // comment\n  | "c" -> third', ["a", "b", "c"], ["d", ""]),
        (r'start: /a\/b/ /[\/"]/ "//" /C.D/is', ["a/b///c\nd", 'a/b"//C.d'], ["a/b"]),
        ('start: (\n  "a"\n  "b"\n)', ["ab"], ["a"]),
        ('start: "a" start?', ["a", "aaa"], ["", "ab"]),
        ('start: list\nlist: item | list "," item\nitem: /[ab]/', ["a", "a,b,a"], ["", "a,", ",a"]),
        ('start: "a" start | "b"', ["b", "aab"], ["a", "ba"]),
        ('start: start "x" | "y" start | "z"', ["z", "yyzxx"], ["yx", "zz", "zyx"]),
        ('start: start "-" start | start start | /[ab]/', ["a", "ab-a"], ["-a", "a-", "a--a"]),
    ],
)
def test_regular_grammars(grammar: str, texts: list[str], others: list[str]) -> None:
    form = regular_form(grammar)
    assert form.depth is None
    pattern = re.compile(form.regex)
    for text in texts:
        assert pattern.fullmatch(text), text
    for text in others:
        assert not pattern.fullmatch(text), text


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('start: "a" start', "none of its texts ends"),
        ('start: "(" start ")"', "none of its texts ends"),
        (f'start: a\na: "{"x" * 9000}" b\nb: c\nc: d\nd: "(" a ")" | "y"', "too long"),
        ("start: x", "x is not defined"),
        ("other: /a/", "start is not defined"),
        ('start: "a', "is not understood"),
        ("start: /a/x", "the flags x are not known"),
        ('%ignore WS\nstart: "a"', "%ignore is used"),
        ("%import common.X\nstart: X", r"common\.X is not known"),
        ('start: "ab".."c"', '"ab" is not one character'),
        ('start: ("a"', r"a \( is not closed"),
        ('start: "a" )', "is not understood"),
        ('start "a"', "'start' does not begin a rule"),
        ('start: "a" ~ x', "a ~ is not followed by numbers"),
        ("start: /" + "[a]" * 40, "is not understood"),
        ("start: /[/", "is not understood"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deep"),
        (r'start: "\ud800"', "half a character"),
        (r'start: "a".."\udfff"', "half a character"),
        ('start: a a\na: b b\nb: "' + "x" * (MAX_LENGTH // 4) + '" | "y"', "too long"),
    ],
)
def test_other_grammars(grammar: str, why: str) -> None:
    with pytest.raises(NotRegularError, match=why):
        regular_form(grammar)


def test_what_is_too_long_is_never_written_out() -> None:
    long = "x" * (MAX_LENGTH // 2)
    grammar = f'start: {"a " * 20_000}\na: "{long}"'
    tracemalloc.start()
    try:
        with pytest.raises(NotRegularError, match="too long"):
            regular_form(grammar)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26  # Written out it has 600 MiB.


def test_many_lines() -> None:
    lines = 100_000
    grammar = "\n" * lines + 'start: "a"' + "\n" * lines + '| "b"'
    assert regular_form(grammar) == RegularForm("(?:a|b)")


NESTED = """
start: sum
sum: product (("+" | "-") product)*
product: factor | product "*" factor
factor: NUMBER | "(" sum ")"
%import common.NUMBER
"""


def test_rules_within_themselves_are_written_out_as_deep_as_there_is_room() -> None:
    form = regular_form(NESTED)
    assert form.depth is not None and form.depth >= 8
    assert len(form.regex) <= MAX_LENGTH
    pattern = re.compile(form.regex)
    for text in ("1", "1+2*3", "(1+2)*(3-4)", "((1))*(2-(3))", "*".join("1" * 500)):
        assert pattern.fullmatch(text), text
    for text in ("", "1+", "(1", "1)", "()", "((1)", "(" * form.depth + "1" + ")" * form.depth):
        assert not pattern.fullmatch(text), text


@pytest.mark.parametrize(
    ("grammar", "letters"),
    [
        ('start: value\nvalue: "[" [value ("," value)*] "]" | /[1]/', "[],1"),
        ("start: all\nall: one rest\nrest: /;/ all |\none: /[ab]/", ";ab"),
        ('start: a\na: "(" b ")" | "x"\nb: "<" a ">" | a a', "()<>x"),
        ('start: a ~ 2..3 | a+ "!"\na: "{" a* "}"', "{}!"),
        ('start: start "x" start | "(" start ")" | "y" start? | "z" start', "x()yz"),
    ],
)
def test_the_texts_are_those_of_the_grammar(grammar: str, letters: str) -> None:
    pattern = re.compile(regular_form(grammar).regex)
    tokenizer = LLTokenizer((DEMO / "tokenizer.json").read_text())
    fresh = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
    found = 0
    for length in range(6):
        for text in map("".join, itertools.product(letters, repeat=length)):
            matcher = fresh.deep_copy()
            consumed = matcher.consume_tokens(tokenizer.tokenize_str(text))
            accepted = consumed and matcher.is_accepting()
            assert bool(pattern.fullmatch(text)) == accepted, text
            found += accepted
    assert found >= 3


def test_many_rules_that_use_each_other_end_soon() -> None:
    count = 100
    uses = " | ".join(f'"(" r{n} ")"' for n in range(count))
    grammar = "start: r0\n" + "\n".join(f"r{n}: {uses}" for n in range(count))
    with pytest.raises(NotRegularError):
        regular_form(grammar)
