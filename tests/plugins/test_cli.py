"""`budmlx plugins`, and commands that plugins add."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.scaffold import HOOKS
from tests.amount import usually
from tests.plugins.packages import Site

ROOT = Path(__file__).parent.parent.parent
PREPROCESSOR = "vision-preprocessor"
GREETER = """
    import typer
    from budmlx import hookimpl
    from budmlx.plugins.specs import CommandSpec

    def greet(name: str = "you") -> None:
        "Say hello."
        typer.echo(f"Hello, {name}!")

    @hookimpl
    def add_commands():
        return [CommandSpec("greet", "Say hello.", "fake_greeter:greet"),
                CommandSpec("serve", "Not ours.", "fake_greeter:greet")]
"""


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_list_shows_what_works_where_and_what_does_not(site: Site) -> None:
    site.install("greeter", GREETER, version="1.2.3")
    site.install("bad", "raise RuntimeError('no luck')", version="4.5")
    lines = run("plugins").splitlines()
    (greeter,) = [line for line in lines if line.startswith("greeter")]
    assert greeter.split() == ["greeter", "1.2.3", "installed", "cli", "add_commands"]
    (memory,) = [line for line in lines if line.startswith("memory-cache")]
    assert memory.split()[2:] == ["built-in", "engine", "provide_response_cache"]
    assert lines[-1] == (
        "Left out: bad 4.5 (installed): it cannot be imported: RuntimeError: no luck"
    )


def test_a_plugin_adds_a_command_but_replaces_none(site: Site) -> None:
    site.install("greeter", GREETER)
    shown = run("--help")
    assert (
        "greet" in shown and "Serve a model over HTTP, or all" in shown and "Not ours" not in shown
    )
    assert run("greet", "--name", "all") == "Hello, all!\n"


BROKEN = """
    from budmlx import hookimpl
    from budmlx.plugins.specs import CommandSpec

    def fail():
        "Fail."
        raise RuntimeError("no luck")

    @hookimpl
    def add_commands():
        return [CommandSpec("absent", "No module.", "fake_absent:run"),
                CommandSpec("leaves", "Ends at import.", "fake_leaves:run"),
                CommandSpec("nameless", "No function.", "fake_broken:nothing"),
                CommandSpec("fails", "Fails.", "fake_broken:fail")]
"""


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("absent", "has no usable command absent: fake_absent:run cannot be imported: ModuleN"),
        ("leaves", "has no usable command leaves: fake_leaves:run cannot be imported: SystemExit"),
        ("nameless", "has no usable command nameless: fake_broken:nothing cannot be imported: "),
        ("fails", "failed: RuntimeError: no luck. --debug shows where."),
    ],
)
def test_a_command_that_fails_names_its_plugin(site: Site, command: str, problem: str) -> None:
    site.install("broken", BROKEN)
    site.module("fake_leaves", "raise SystemExit(3)")
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "he plugin broken " in line and problem in line
    assert "serve" in run("--help")


def test_help_works_whatever_is_configured(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("bad", "raise RuntimeError('no luck')")
    monkeypatch.setenv("BUDMLX_PLUGIN", "bad")
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0 and "serve" in result.stdout
    assert "Plugin bad cannot be loaded" in result.stderr


def new(path: Path, hooks: str) -> str:
    """Write a new package. hooks: joined by plus signs."""
    options = [word for hook in hooks.split("+") for word in ("--hook", hook)]
    return run("plugins", "new", str(path), *options)


SEVERAL = "sampler+response-cache+output-filter"
ALL = "+".join(hook for hook in HOOKS if hook != PREPROCESSOR)


@pytest.fixture(scope="module")
def new_packages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str]]:
    """How the test of a new package went, for all hooks of this run; two run at a time."""
    mine = [item for item in request.session.items if item.path == request.path]
    params = [item.callspec.params for item in mine if hasattr(item, "callspec")]
    wanted = [each["hooks"] for each in params if "hooks" in each]

    def written(hooks: str) -> Path:
        path = tmp_path_factory.mktemp("new") / "budmlx-fresh-thing"
        shown = new(path, hooks)
        assert f"Wrote {path}. Try: pip install -e '{path}[test]' && pytest" in shown
        return path

    def tested(path: Path) -> tuple[int, str]:
        # There are no warnings, with plain pytest or with the plugins that are installed here.
        plain = "test_all_hooks" not in (path / "tests" / "test_plugin.py").read_text()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", str(path), "-p", "no:cacheprovider", "-W", "error"],
            capture_output=True,
            text=True,
            cwd=path.parent,
            env={
                "PYTHONPATH": str(ROOT),
                "PATH": "/usr/bin:/bin",
                "HOME": str(path),
                **({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if plain else {}),
            },
            timeout=110,
        )
        return done.returncode, done.stdout + done.stderr

    paths = [written(hooks) for hooks in wanted]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(tested, paths), strict=True))


# In the usual run one of several hooks that computes in the core.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hooks", usually(SEVERAL.__eq__, [SEVERAL, ALL, *HOOKS]))
def test_a_new_package_passes_its_test(
    hooks: str, new_packages: dict[str, tuple[int, str]]
) -> None:
    code, shown = new_packages[hooks]
    assert code == 0 and "warning" not in shown, shown


def test_a_package_with_several_hooks_has_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "budmlx-mine"
    new(path, "sampler+route+sampler")
    files = {str(file.relative_to(path)) for file in path.rglob("*.py")}
    assert files == {
        *("budmlx_mine.py", "budmlx_mine_sampler.py", "budmlx_mine_sampler_core.py"),
        *("budmlx_mine_route.py", "tests/conftest.py", "tests/test_plugin.py"),
        *("tests/test_sampler.py", "tests/test_route.py"),
    }
    main = (path / "budmlx_mine.py").read_text()
    assert "from budmlx_mine_route import add_routes\n" in main
    assert "from budmlx_mine_sampler import add_samplers\n" in main


@pytest.mark.parametrize("hooks", ["sampler", SEVERAL])
def test_a_new_package_says_what_to_install(hooks: str, tmp_path: Path) -> None:
    path = tmp_path / "budmlx-mine"
    new(path, hooks)
    project = tomllib.loads((path / "pyproject.toml").read_text())
    assert project["project"]["optional-dependencies"]["test"][0].startswith("pytest")
    for name in ("README.md", "tests/conftest.py"):
        assert "pip install -e '.[test]'" in (path / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["new", "x"], "needs a name and a hook"),
        (["new", "x", "--hook", "nope"], "choose of sampler"),
        (["new", "Bad_Name", "--hook", "route"], "is no name"),
        (["new", ".", "--hook", "route"], "is no name"),
        (["new", "typer", "--hook", "route"], "such as budmlx-typer"),
        (["new", "json", "--hook", "route"], "such as budmlx-json"),
        (["new", "class", "--hook", "route"], "such as budmlx-class"),
        (["list", "x"], "go with"),
        (["list", "--hook", "route"], "go with"),
        (["new", "x", "--hook", "route", "--hook", "nope"], "choose of sampler"),
        (
            ["new", "x", "--hook", PREPROCESSOR, "--hook", "vision-encoder"],
            "vision-preprocessor and vision-encoder both provide provide_vision_preprocessor",
        ),
    ],
)
def test_what_new_needs(arguments: list[str], problem: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plugins", *arguments])
    assert result.exit_code == 1 and problem in result.stderr


def test_a_path_is_written_as_a_shell_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "my work" / "budmlx-mine"
    shown = new(path, "route")
    assert f"pip install -e '{path}[test]' && pytest '{path}' && budmlx plugins" in shown


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "budmlx-mine"
    result = CliRunner().invoke(app, ["plugins", "new", str(path), "--hook", "route"])
    assert result.exit_code == 1 and "cannot be written: Not a directory." in result.stderr


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    result = CliRunner().invoke(app, ["plugins", "new", str(path), "--hook", "route"])
    assert result.exit_code == 1 and "exists already" in result.stderr
