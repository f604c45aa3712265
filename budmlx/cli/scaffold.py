"""The package that `budmlx plugins new` writes."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from budmlx.errors import BudmlxError

HOOKS = (
    "sampler",
    "logits-processor",
    "response-cache",
    "tool-parser",
    "reasoning-parser",
    "vision-preprocessor",
    "vision-encoder",
    "model-loader",
    "message-transform",
    "output-filter",
    "request-finished",
    "route",
    "command",
)
TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


_FUNCTION = re.compile(r"^@hookimpl\ndef (\w+)", re.MULTILINE)
_SETTINGS = "plugin_options"


def write_package(path: Path, hooks: Sequence[str]) -> Path:
    """Write a package with a plugin, its README and a passing test; returns its directory.

    path: directory to make; its last part is the name of the distribution. hooks: what the plugin
    provides; each of several has a module of its own.

    Raises:
        BudmlxError: there is no such hook, two provide the same, the name is unusable or taken, or
            nothing can be written there.
    """
    for hook in hooks:
        if hook not in HOOKS:
            raise BudmlxError(
                f"There is nothing to write for {hook!r}; choose of {', '.join(HOOKS)}."
            )
    if not _NAME.fullmatch(path.name):
        raise BudmlxError(f"{path.name!r} is no name: use lower case letters, digits and dashes.")
    if path.exists():
        raise BudmlxError(f"{path} exists already.")
    names = {
        "distribution": path.name,
        "module": path.name.replace("-", "_"),
        "plugin": path.name.removeprefix("budmlx-"),
    }
    if keyword.iskeyword(names["module"]) or importlib.util.find_spec(names["module"]):
        raise BudmlxError(
            f"Python has something else called {names['module']}; choose another name, such as "
            f"budmlx-{names['plugin']}."
        )
    contents = _contents(list(dict.fromkeys(hooks)), names)
    try:
        for name, text in contents.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise BudmlxError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _contents(hooks: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """The text of every file, by its path in the package."""
    contents = {
        "pyproject.toml": _filled("pyproject.toml", names),
        "README.md": _filled("README.md", names),
        "tests/conftest.py": _filled("conftest.py", names),
    }
    if len(hooks) == 1:
        return contents | _part(hooks[0], names, "plugin")
    modules: dict[str, list[str]] = {}
    for hook in hooks:
        label = hook.replace("-", "_")
        module = f"{names['module']}_{label}"
        contents |= _part(hook, {**names, "module": module}, label)
        modules[module] = _offered(contents[f"{module}.py"])
    provided = [name for each in modules.values() for name in each]
    if twice := sorted({name for name in provided if provided.count(name) > 1}):
        which = [hook for hook in hooks if twice[0] in _offered(_filled(f"{hook}.py", names))]
        raise BudmlxError(f"{' and '.join(which)} both provide {twice[0]}; choose one of them.")
    imports = [
        f"from {module} import {name}" for module, each in sorted(modules.items()) for name in each
    ]
    functions = sorted(name for name in provided if name != _SETTINGS)
    values = {
        **names,
        "imports": "\n".join(imports),
        "names": ", ".join(f'"{name}"' for name in sorted(provided)),
        "hooks": ", ".join(f'"{name}"' for name in functions),
    }
    contents[f"{names['module']}.py"] = _filled("several.py", values)
    contents["tests/test_plugin.py"] = _filled("test_several.py", values)
    return contents


def _part(hook: str, names: Mapping[str, str], label: str) -> dict[str, str]:
    """The module of a hook, that of its half in the core, if there is one, and their test."""
    part = {
        f"{names['module']}.py": _filled(f"{hook}.py", names),
        f"tests/test_{label}.py": _filled(f"test_{hook}.py", names),
    }
    if (TEMPLATES / f"{hook}_core.py.txt").exists():
        part[f"{names['module']}_core.py"] = _filled(f"{hook}_core.py", names)
    return part


def _offered(source: str) -> list[str]:
    """What the plugin's module takes from the module of a hook."""
    settings = [_SETTINGS] if f"\n{_SETTINGS} = " in source else []
    return sorted([*_FUNCTION.findall(source), *settings])


def _filled(template: str, names: Mapping[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text("utf-8")).substitute(names)
