"""Every hook is documented and tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from budmlx.cli.scaffold import HOOKS
from budmlx.plugins import hookspecs
from budmlx.plugins.hookspecs import RINGS
from budmlx.plugins.manager import ADDED

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("hook", RINGS)
def test_every_hook_is_documented_called_and_tested(hook: str) -> None:
    function = getattr(hookspecs, hook)
    assert len(function.__doc__) > 100 and "return" in function.__annotations__
    assert hook.split("_")[0] in ("provide", "add", "on")
    assert (hook in ADDED) == hook.startswith("add_")
    source = "".join(path.read_text() for path in (ROOT / "budmlx").rglob("*.py"))
    assert source.count(f'"{hook}"') > hook.startswith("add_"), "nobody asks for it"
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    assert f"def {hook}" in tests


def test_there_is_a_template_for_every_hook() -> None:
    assert len(HOOKS) == len(RINGS)


def test_the_surface_fits_on_one_screen() -> None:
    # Thirteen hooks; a hook more has to replace words elsewhere.
    assert len(Path(hookspecs.__file__).read_text().splitlines()) <= 137
