"""Lark grammars become regular expressions, or it is said why not."""

from __future__ import annotations

import re
import tracemalloc

import pytest

from budmlx.server.dialects.responses.lark import MAX_LENGTH, NotRegularError, regex_of

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
    ],
)
def test_regular_grammars(grammar: str, texts: list[str], others: list[str]) -> None:
    pattern = re.compile(regex_of(grammar))
    for text in texts:
        assert pattern.fullmatch(text), text
    for text in others:
        assert not pattern.fullmatch(text), text


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('start: "a" start?', "start is defined by itself"),
        ('start: "(" inner ")"\ninner: start | "a"', "start is defined by itself"),
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
        regex_of(grammar)


def test_what_is_too_long_is_never_written_out() -> None:
    long = "x" * (MAX_LENGTH // 2)
    grammar = f'start: {"a " * 20_000}\na: "{long}"'
    tracemalloc.start()
    try:
        with pytest.raises(NotRegularError, match="too long"):
            regex_of(grammar)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26  # Written out it has 600 MiB.


def test_many_lines() -> None:
    lines = 100_000
    assert regex_of("\n" * lines + 'start: "a"' + "\n" * lines + '| "b"') == "(?:a|b)"
