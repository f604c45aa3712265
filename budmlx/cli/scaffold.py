"""The package that `budmlx plugins new` writes."""

from __future__ import annotations

import re
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


def write_package(path: Path, hook: str) -> Path:
    """Write a package with a plugin, its README and a passing test; returns its directory.

    path: directory to make; its last part is the name of the distribution.

    Raises:
        BudmlxError: there is no such hook, or the name is unusable or taken.
    """
    if hook not in HOOKS:
        raise BudmlxError(f"There is nothing to write for {hook!r}; choose of {', '.join(HOOKS)}.")
    if not _NAME.fullmatch(path.name):
        raise BudmlxError(f"{path.name!r} is no name: use lower case letters, digits and dashes.")
    if path.exists():
        raise BudmlxError(f"{path} exists already.")
    names = {
        "distribution": path.name,
        "module": path.name.replace("-", "_"),
        "plugin": path.name.removeprefix("budmlx-"),
    }
    contents = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{names['module']}.py": f"{hook}.py",
        "tests/conftest.py": "conftest.py",
        "tests/test_plugin.py": f"test_{hook}.py",
    }
    if (TEMPLATES / f"{hook}_core.py.txt").exists():
        contents[f"{names['module']}_core.py"] = f"{hook}_core.py"
    for target, template in contents.items():
        text = (TEMPLATES / f"{template}.txt").read_text("utf-8")
        file = path / target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(names), "utf-8")
    return path
