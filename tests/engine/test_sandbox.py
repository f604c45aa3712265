"""Faulty and hostile chat templates end soon, with an error or without harm."""

from __future__ import annotations

import time

import pytest

from budmlx.engine import sandbox
from budmlx.engine.template import ChatTemplate
from budmlx.errors import InvalidRequestError, ModelLoadError

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
def test_hostile_templates_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.1)
    begin = time.process_time()
    template = ChatTemplate(source, {})  # renders a few times to learn what it takes
    with pytest.raises(InvalidRequestError) as caught:
        template.render(USER)
    assert "__class__" not in caught.value.message
    assert time.process_time() - begin < 20


def test_a_template_that_is_none_fails_the_load() -> None:
    with pytest.raises(ModelLoadError, match="line 1"):
        ChatTemplate("{% for %}", {})


def test_what_honest_templates_do_still_works() -> None:
    source = (
        "{% for m in messages %}{{ loop.index ~ '/' ~ loop.length ~ ('!' ~ '?') }}"
        "{% if loop.last %}.{% endif %}{% if not loop.first %}{% break %}{% endif %}{% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% endfor %}"
        "{% for x in [[1, [2]], [3]] recursive %}"
        "{{ loop(x) if x is not number else x }}{% endfor %}"
        "{% for x in missing %}never{% else %}none{% endfor %}"
    )
    text = ChatTemplate(source, {}).render([*USER, *USER, *USER])
    assert text == "1/3!?2/3!?a1123none"
