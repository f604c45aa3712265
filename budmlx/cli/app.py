"""The command group: its commands, and messages for failures."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from budmlx import __version__
from budmlx.cli.debug_option import DEBUG_OPTION
from budmlx.cli.help import SectionedCommand
from budmlx.errors import BudmlxError

# name: ("module:function", summary). The summary repeats the first line of the docstring.
COMMANDS = {
    "serve": (
        "budmlx.cli.serve:serve",
        "Serve a model over HTTP, or all that are on this machine.",
    ),
    "rank": (
        "budmlx.cli.rank:rank",
        "Compute a part of a model that another machine serves.",
    ),
    "generate": ("budmlx.cli.generate:generate", "Answer one prompt and print the reply."),
    "chat": ("budmlx.cli.chat:chat", "Chat with a model in the terminal."),
    "embed": ("budmlx.cli.embed:embed", "Write the vectors of the lines of a file."),
    "batch": ("budmlx.cli.batch:batch", "Answer the requests of a file."),
    "models": ("budmlx.cli.models:models", "List the models on this machine."),
    "show": ("budmlx.cli.show:show", "Show what a model is and how much memory it takes."),
    "pull": ("budmlx.cli.pull:pull", "Fetch a model from the Hugging Face hub."),
    "rm": ("budmlx.cli.rm:rm", "Remove a model from the hub's cache."),
    "ps": ("budmlx.cli.ps:ps", "List the models that a running server has loaded."),
    "load": ("budmlx.cli.residence:load", "Load a model in a running server."),
    "unload": ("budmlx.cli.residence:unload", "Unload a model of a running server."),
    "keys": ("budmlx.cli.keys:keys", "List, make or revoke API keys, or show what they used."),
    "service": (
        "budmlx.cli.service.command:service",
        "Run the server as a service: launchd on a Mac, systemd on Linux.",
    ),
    "cert": ("budmlx.cli.cert:cert", "Make a self-signed certificate for HTTPS."),
    "doctor": (
        "budmlx.cli.doctor.command:doctor",
        "Look for what keeps models from running well on this machine.",
    ),
    "launch": (
        "budmlx.cli.launch.command:launch",
        "Start a coding agent that uses a model of this machine.",
    ),
    "plugins": ("budmlx.cli.plugins:plugins", "List plugins, or write a new one."),
    "cache": ("budmlx.cli.cache:cache", "List or clear the KV of prompts on disk."),
    "bench": ("budmlx.cli.bench:bench", "Measure tokens per second and latencies."),
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them, and turns failures into one line on stderr.

    A command's module imports the server or the engine at its top, which takes half a second
    and more: the group imports it only to run it, or to show its own help.
    """

    def __init__(self, **attributes: Any):
        super().__init__(**attributes)
        self.meta: dict[str, Any] = {}
        self._extended = False
        self._plugins: dict[str, str] = {}
        self._plugin = ""  # whose command runs
        self._targets = {name: target for name, (target, _) in COMMANDS.items()}
        for name, (_, summary) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def get_command(self, ctx: Any, name: str) -> Any:
        """The stub of a command; plugins are loaded only for names that budmlx lacks."""
        found = super().get_command(ctx, name)
        if found is None and self._extend():
            found = super().get_command(ctx, name)
        return found

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        self._extend()
        return super().list_commands(ctx)

    def _extend(self) -> bool:
        """Add the commands of installed plugins; False if that was done before."""
        if self._extended:
            return False
        self._extended = True
        if entry_points(group="budmlx"):
            added = importlib.import_module("budmlx.cli.plugin_commands").commands()
            for name, (target, summary, plugin) in added.items():
                if name not in COMMANDS:
                    self._targets[name], self._plugins[name] = target, plugin
                    self.add_command(TyperCommand(name, help=summary))
        return True

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Replace the stub that was found by the real command."""
        name, stub, rest = super().resolve_command(ctx, args)
        if stub is None:
            return name, None, rest
        command, target = str(stub.name), self._targets[str(stub.name)]
        if plugin := self._plugins.get(command):
            self._plugin = plugin
            commands = importlib.import_module("budmlx.cli.plugin_commands")
            commands.check_target(plugin, command, target)
        return name, load(command, target), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and keep the value of --debug for `main`."""
        self.meta = ctx.meta
        return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run the command line; the boundary at which errors become messages."""
        try:
            return super().main(args, *rest, **options)
        except BudmlxError as error:
            self._fail(error.message)
        except Exception as error:
            what = f"the plugin {self._plugin} failed" if self._plugin else "internal error"
            self._fail(f"{what}: {type(error).__name__}: {error}. --debug shows where.")

    def _fail(self, message: str) -> None:
        if self.meta.get("debug"):
            raise
        print(f"budmlx: {message}", file=sys.stderr)
        sys.exit(1)


def load(name: str, target: str = "") -> Any:
    """Import a command and build its parser from its signature. target: if it is not ours."""
    module, _, function = (target or COMMANDS[name][0]).partition(":")
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=SectionedCommand)(getattr(importlib.import_module(module), function))
    return typer.main.get_command(single)


def print_version(value: bool) -> None:
    """Print the versions that a bug report needs."""
    if not value:
        return
    parts = [f"Python {platform.python_version()}", platform.platform(terse=True)]
    for package in ("mlx-lm", "mlx"):
        try:
            parts.insert(0, f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.insert(0, f"{package} missing")
    typer.echo(f"budmlx {__version__} ({', '.join(parts)})")
    raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, DEBUG_OPTION] = False,
) -> None:
    """Run language models on a Mac: serve them over HTTP, or talk to them here."""


def main() -> None:
    """Entry point of the command `budmlx`."""
    app()
