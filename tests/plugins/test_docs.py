"""Every hook is documented and tested."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from budmlx.cli.scaffold import HOOKS
from budmlx.plugins import hookspecs
from budmlx.plugins.hookspecs import RINGS
from budmlx.plugins.manager import ADDED
from budmlx.plugins.reference import ALIASES, SHOWN, definition, reference

# Names in signatures that Python, pydantic, numpy and aiohttp define.
FOREIGN = {
    *("Any", "Annotated", "BaseModel", "BeforeValidator", "Config", "NDArray", "Path"),
    *("Awaitable", "Callable", "Iterable", "Literal", "Mapping", "Self", "Sequence"),
    *("StreamResponse", "Request", "False", "None", "True"),
}
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


def test_the_reference_defines_every_name_in_its_signatures() -> None:
    shown = {kind.__name__ for kind in SHOWN} | ALIASES.keys()
    blocks = re.findall(r"```python\n(.*?)```", reference(), re.DOTALL)
    code = re.sub(r'"[^"]*"', "", "\n".join(blocks))
    named = set(re.findall(r"\b[A-Z]\w+", code)) - FOREIGN - {"Settings"}
    assert named - shown == set()
    assert shown <= named | {"TokenId", "TokenIds", "Vocabulary"}


@pytest.mark.parametrize("kind", SHOWN)
def test_the_reference_gives_fields_or_methods_of_every_value(kind: type) -> None:
    _, _, entry = reference().partition(f"\n## `{kind.__name__}`\n")
    entry = entry.partition("\n## ")[0]
    assert definition(kind) in entry
    for name in [*inspect.get_annotations(kind), *(n for n in vars(kind) if n[0] != "_")]:
        assert re.search(rf"^(    |def ){name}\b", entry, re.MULTILINE), name
    assert "class" in entry and len(entry.partition("```\n\n")[2]) > 30


def test_there_is_a_template_for_every_hook() -> None:
    assert len(HOOKS) == len(RINGS)


def test_the_surface_fits_on_one_screen() -> None:
    # Thirteen hooks; a hook more has to replace words elsewhere.
    assert len(Path(hookspecs.__file__).read_text().splitlines()) <= 137
