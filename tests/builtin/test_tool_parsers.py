"""Tool-call parsers read what models write, however it is cut."""

from __future__ import annotations

import pytest

from budmlx.builtin.tool_parsers import FAMILIES, provide_tool_parser
from budmlx.plugins.parsing import ModelTraits, ToolParserSpec
from budmlx.testing import check_tool_parser
from tests.builtin.call_samples import SAMPLES, TOOLS, Sample

NOBODY = ModelTraits("", "")


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
