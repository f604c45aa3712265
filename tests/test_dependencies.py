"""Dependencies have ranges: the oldest version that is tested, and the one that may break us."""

from __future__ import annotations

import tomllib
from importlib.metadata import version

from packaging.requirements import Requirement

from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Tools of those who work on budmlx are not what users get.
EXTRAS = {name: each for name, each in PROJECT["optional-dependencies"].items() if name != "dev"}
REQUIRED = [Requirement(each) for each in PROJECT["dependencies"]]
DEV = [Requirement(each) for each in PROJECT["optional-dependencies"]["dev"]]
LOCK = ROOT / ".ci" / "constraints.txt"
ALL = [*REQUIRED, *(Requirement(each) for extra in EXTRAS.values() for each in extra)]


def test_every_dependency_has_a_range() -> None:
    assert len(REQUIRED) > 10
    for each in ALL:
        assert {">=", "<"} <= {part.operator for part in each.specifier}, str(each)


def test_what_is_installed_is_within() -> None:
    for each in REQUIRED:
        if each.marker is None or each.marker.evaluate():
            assert each.specifier.contains(version(each.name)), str(each)


def test_what_is_locked_is_within_and_nothing_is_missing() -> None:
    lines = LOCK.read_text("utf-8").splitlines()
    locked = {
        each.name.lower().replace("_", "-"): each.specifier
        for each in map(Requirement, [line for line in lines if not line.startswith("#")])
    }
    for each in [*ALL, *DEV]:
        if each.name == "budmlx" or each.name in ("matplotlib",):
            continue  # itself; nothing is drawn in CI
        (pinned,) = locked[each.name]
        assert pinned.operator == "==" and each.specifier.contains(pinned.version), str(each)
