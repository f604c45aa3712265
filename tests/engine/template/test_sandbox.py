"""Faulty and hostile chat templates end soon, with an error or without harm."""

from __future__ import annotations

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from budmlx.engine.template import limits
from budmlx.engine.template import template as template_module
from budmlx.engine.template.template import ChatTemplate
from budmlx.errors import InvalidRequestError, ModelLoadError, OverloadedError

USER = [{"role": "user", "content": "x"}]
NUMBERS = "{% for a in range(99999) %}{% for b in range(99999) %}"

HOSTILE = {
    "nested loops": NUMBERS + "{% endfor %}{% endfor %}",
    "endless output": NUMBERS + "{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "fan-out": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "long text": "{{ 'x' * 10**10 }}",
    "long list": "{{ ([1] * 10**9) | length }}",
    "doubling": "{% set n = namespace(x='xx') %}{% for i in range(90) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "adding": "{% set n = namespace(x='xx') %}{% for i in range(90) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "large number": "{{ 9 ** (9 ** 9) }}",
    "inner parts": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_end(source: str) -> None:  # LIMITS 77
    begin = time.process_time()
    with pytest.raises((ModelLoadError, InvalidRequestError)) as caught:
        ChatTemplate(source, {}, seconds=0.1).render(USER)
    assert "__class__" not in caught.value.message
    assert time.process_time() - begin < 5


TEXT, WORDS = "('x' * 10**6)", "('ab ' * 10**6)"
DOUBLED = "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}\
{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}"
LARGE = {
    "percent": "{{ '%400000000d' % 1 }}",
    "percent star": "{{ '%*d' % (4 * 10**8, 1) }}",
    "percent precision": "{{ '%.400000000f' % 1 }}",
    "percent names": "{{ ('%(a)s' * 10**4) % {'a': " + TEXT + "} }}",
    "filter format": "{{ '%400000000d' | format(1) }}",
    "format": "{{ '{:400000000}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 4 * 10**8) }}",
    "repeated format": "{{ ('{0}' * 10**4).format(" + TEXT + ") }}",
    "format_map": "{{ '{a:400000000}'.format_map({'a': 1}) }}",
    "replace": "{{ (" + TEXT + ").replace('x', " + TEXT + ") }}",
    "filter replace": "{{ " + TEXT + " | replace('x', " + TEXT + ") }}",
    "join": "{{ ([" + TEXT + "] * 400) | join }}",
    "join by": "{{ range(100) | join(" + TEXT + ") }}",
    "method join": "{{ (" + TEXT + ").join(range(100) | map('string')) }}",
    "indent": "{{ ('\n' * 10**6) | indent(4000) }}",
    "tojson": "{{ range(100) | list | tojson(indent=10**7) }}",
    "tojson separators": "{{ range(100) | list | tojson(separators=(" + TEXT + ", '')) }}",
    "split": "{{ " + WORDS + ".split() | length }}",
    "split by": "{{ (" + WORDS + " * 2).split('a') | length }}",
    "splitlines": "{{ ('\n' * 10**7).splitlines() | length }}",
    "list": "{{ ('x' * 10**7) | list | length }}",
    "title": "{{ ('x y ' * 10**6) | title }}",
    "strftime": "{{ strftime_now('%400000000d') }}",
    "round": "{{ 1.5 | round(10**9, 'floor') }}",
    "rfind": "{{ ('a' * 10**7).rfind('b' + 'a' * 10**6) }}",
    "sum": "{{ ([[1] * 1000] * 60) | sum(start=[]) }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "block": "{% set n = namespace(x='xx') %}{% for i in range(90) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "many texts": "{% set n = namespace(x=[]) %}{% for i in range(400) %}"
    "{% set n.x = [n.x, 'x' * 10**7] %}{% endfor %}",
    "slices": "{% set x = 'x' * 10**7 %}{% for i in range(9999) %}{% set y = x[i:] %}{% endfor %}",
    "printed list": DOUBLED + "{{ n.x }}",
    "macro's arguments": "{% macro f(n) %}{% if n %}{{ f(n-1, varargs, varargs) }}"
    "{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ f(60) }}",
    "macro's names": "{% macro f(n) %}{% if n %}{{ f(n-1, a=kwargs, b=kwargs) }}"
    "{% else %}{{ kwargs }}{% endif %}{% endmacro %}{{ f(60) }}",
    "compared lists": DOUBLED + "{{ n.x == n.y }}",
}


@pytest.mark.parametrize("source", LARGE.values(), ids=LARGE)
def test_what_would_be_large_is_refused_before_it_is_made(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError, match=r"more than|too large|no numbers"):
            ChatTemplate(source, {})
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "call",
    [
        "'x'.ljust(400000000)",
        "'x'.zfill(400000000)",
        "('\t' * 9).expandtabs(40000000)",
        "'x'.translate({120: 'xx'})",
        "(1).to_bytes(400000000, 'big')",
        "'x' | center(400000000)",
        "'x' | wordwrap(1)",
        "{'a': 1} | xmlattr",
        "'x' | urlencode",
        "[1] | batch(400000000, 0)",
        "lipsum(n=20000)",
    ],
)
def test_what_no_chat_needs_is_not_offered(call: str) -> None:
    assert ChatTemplate("{% if 0 %}{{ " + call + " }}{% endif %}fine", {}).render(USER) == "fine"
    with pytest.raises(InvalidRequestError):
        ChatTemplate("{{ " + call + " }}", {}).render(USER)


class Clock:
    """The clocks of a thread that gets `share` of all time. Each look takes a second."""

    def __init__(self, share: float):
        self.now = 0.0
        self._share = share

    def monotonic(self) -> float:
        self.now += 1
        return self.now

    def thread_time(self) -> float:
        return self.now * self._share


LOOP = "{% for i in range(200) %}{% endfor %}{{ messages[0].content }}"


def test_the_time_of_a_template_is_that_of_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(LOOP, {}, seconds=50)
    monkeypatch.setattr(limits, "time", Clock(share=0.1))
    assert template.render(USER) == "x"
    monkeypatch.setattr(limits, "time", Clock(share=1.0))
    with pytest.raises(InvalidRequestError, match="takes longer than 50 s") as caught:
        template.render(USER)
    assert caught.value.param == "messages"
    assert "roles" not in caught.value.message


def test_longer_conversations_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(LOOP, {}, seconds=195)
    for messages in (USER * 9_000, [{"role": "user", "content": "x" * 2**23}]):
        monkeypatch.setattr(limits, "time", Clock(share=1.0))
        with pytest.raises(InvalidRequestError, match="takes longer than 195 s"):
            template.render(USER)
        assert template.render(messages)


def test_too_much_text_is_refused_by_that_name() -> None:
    source = "{% if messages[0].content == 'x' %}{{ 'x' * 99999999 }}{% endif %}"
    with pytest.raises(InvalidRequestError, match="makes more than") as caught:
        ChatTemplate(source, {}).render(USER)
    assert caught.value.code == "template_limit"


def test_no_memory_now_may_be_memory_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> str:
        raise MemoryError

    template = ChatTemplate("{{ messages[0].content }}", {})
    monkeypatch.setattr(template_module, "render", full)
    with pytest.raises(OverloadedError, match="retry later"):
        template.render(USER)


@pytest.mark.long
def test_many_long_conversations_at_once_are_all_rendered() -> None:
    source = (
        Path(__file__).parents[1] / "request" / "chat_templates" / "gemma4_31b.jinja"
    ).read_text()
    template = ChatTemplate(source, {"bos_token": "<s>"})
    talk = [{"role": role, "content": "a"} for _ in range(225) for role in ("user", "assistant")]
    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(template.render, [talk] * 12))
    assert len(set(texts)) == 1


def test_names_of_a_namespace_are_its_own() -> None:
    source = (
        "{% set n = namespace(a=1) %}{{ n.a }}{{ n.b is defined }}{{ n.__class__ is defined }}"
        "{% set n.b = 'x' %}{{ n.b }}{{ n.c }}"
    )
    assert ChatTemplate(source, {}).render(USER) == "1FalseFalsex"


def test_a_template_that_is_none_fails_the_load() -> None:
    with pytest.raises(ModelLoadError, match="line 1"):
        ChatTemplate("{% for %}", {})
    with pytest.raises(ModelLoadError, match="too deeply"):
        ChatTemplate("{{ " + "[" * 999 + "]" * 999 + " }}", {})


def test_what_honest_templates_do_still_works() -> None:
    source = (
        "{% for m in messages %}{{ loop.index ~ '/' ~ loop.length ~ ('!' ~ '?') }}"
        "{% if loop.last %}.{% endif %}{% if not loop.first %}{% break %}{% endif %}{% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% endfor %}"
        "{% for x in [[1, [2]], [3]] recursive %}"
        "{{ loop(x) if x is not number else x }}{% endfor %}"
        "{% for x in missing %}never{% else %}none{% endfor %}"
        "{{ ' %05.1f%% of %s' % (7, 'x') }}{{ '{{{0:>3}}}'.format(1) }}{{ '%s' | format([1]) }}"
        "{{ ', '.join(messages | map(attribute='role')) }}{{ messages | join('+', 'content') }}"
        "{{ [1, 2] | sum }}{{ 'a\nb' | indent(1) }}{{ 'a b'.split(maxsplit=1) | last | title }}"
        "{{ {'a': [1]} | tojson(indent=1) }}{{ [7] + [8] }}{{ 'xyz'[1:] }}{{ 2 ** 9 - 7 // 2 }}"
    )
    text = ChatTemplate(source, {}).render([*USER, *USER, *USER])
    assert text == (
        "1/3!?2/3!?a1123none 007.0% of x{  1}[1]user, user, userx+x+x3a\n b"
        'B{\n "a": [\n  1\n ]\n}[7, 8]yz509'
    )
