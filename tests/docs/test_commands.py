"""Commands, options, variables and settings that the documentation names exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from budmlx.cli.app import COMMANDS, load
from budmlx.config import ENV_PREFIX, Config
from budmlx.config.sources import OTHERS
from tests.docs.pages import ROOT, Block, blocks, guides, inline_code, name, pages, prose
from tests.docs.shell import commands

SHELL = [block for page in pages() for block in blocks(page) if block.language == "sh"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
INLINE = [
    (page, code) for page in pages() for code in inline_code(page) if code.startswith("budmlx ")
]

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]

OF_TESTS = {"BUDMLX_GPU_TESTS", "BUDMLX_REQUIRE"}
"""Read by `tests/gpu` alone."""

FOREIGN = frozenset(
    {"cat", "cd", "curl", "export", "git", "hf", "kill", "mlx_lm.convert", "pytest"}
    | {"caffeinate", "claude", "launchctl", "llm", "tmutil"}
)
"""Programs of others, whose arguments are not checked."""
FOREIGN_OPTIONS = frozenset(
    {"--hf-path", "--mlx-path", "--only", "--server", "--user", "--write-results"}
    | {"--last", "--permission-mode", "--predicate"}
)
"""Options of others, and of `python -m bench`."""


def options_of(command: str) -> set[str]:
    """The long options of a command of `budmlx`."""
    found = {"--help"}
    for parameter in load(command).params:
        found.update([*parameter.opts, *parameter.secondary_opts])
    return {option for option in found if option.startswith("--")}


def options() -> set[str]:
    """Every option of `budmlx`."""
    return {"--version"}.union(*map(options_of, COMMANDS))


def check_budmlx(words: list[str]) -> None:
    """Parse a command line of budmlx as the program would; nothing is run."""
    if words[0] not in ("--help", "--version"):
        load(words[0]).make_context(words[0], words[1:])


def check(words: list[str]) -> None:
    """Whether a command exists, and takes these arguments."""
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "python" and rest[:2] == ["-m", "pip"]:
        program, rest = "pip", rest[2:]
    if program == "budmlx":
        check_budmlx(rest)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS, rest
    elif program == "pip":
        local = [word.partition("[")[0] for word in rest if word.startswith("./")]
        assert all((ROOT / path).is_dir() for path in local), rest
        named = [
            match[1] for word in rest if (match := re.fullmatch(r"(?:budmlx|\.)\[(.*)\]", word))
        ]
        assert set(",".join(named).split(",")) - {""} <= EXTRAS.keys(), rest
    elif program == "python":
        check_python(rest)
    else:
        assert program in FOREIGN, f"{program} is unknown here"


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, words
    elif words[0] != "-c":
        assert (ROOT / words[0]).is_file(), words


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_code(block: Block) -> None:
    for words in commands(block.text):
        check(words)


@pytest.mark.parametrize(("page", "code"), INLINE, ids=[f"{name(p)}: {c}" for p, c in INLINE])
def test_commands_within_the_text(page: Path, code: str) -> None:
    """They may be the beginning of a command, or have a placeholder in capitals."""
    ((_, command, *rest),) = commands(code)
    if command.startswith("-"):
        check_budmlx([command, *rest])
    elif not command.isupper():
        named = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert command in COMMANDS and named <= options_of(command)


def test_what_is_wrong_is_found() -> None:
    with pytest.raises(Exception, match="No such option: --prefix-cash"):
        check(shlex.split("budmlx serve --prefix-cash 4GiB"))
    with pytest.raises(AssertionError):
        check(shlex.split("make tset"))
    with pytest.raises(AssertionError):
        check(shlex.split("pip install 'budmlx[cdua]'"))


@pytest.mark.parametrize("page", pages(), ids=name)
def test_options_that_a_page_names_exist(page: Path) -> None:
    named = {
        match for code in inline_code(page) for match in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)
    }
    assert named <= options() | FOREIGN_OPTIONS


@pytest.mark.parametrize("page", pages(), ids=name)
def test_variables_that_a_page_names_exist(page: Path) -> None:
    known = {ENV_PREFIX + field.upper() for field in Config.model_fields}
    named = set(re.findall(rf"{ENV_PREFIX}[A-Z_]*[A-Z]", page.read_text("utf-8")))
    assert named <= known | OTHERS | OF_TESTS


def test_every_command_is_documented() -> None:
    text = "".join(prose(page) for page in guides())
    assert not [command for command in COMMANDS if f"budmlx {command}" not in text]
