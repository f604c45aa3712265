"""`budmlx chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, sampling_options, with_options
from budmlx.cli.load_model import ADAPTER_OPTION, ENGINE_FIELDS, adapter_name, open_engine
from budmlx.cli.terminal import ReplyPrinter, checked, show
from budmlx.engine.engine import Engine
from budmlx.errors import BudmlxError, EngineClosedError
from budmlx.types import Message

with contextlib.suppress(ImportError):  # some builds of Python lack it
    import readline  # noqa: F401 -- gives input() line editing and a history

ENGINE_OPTIONS = config_options(ENGINE_FIELDS)
SAMPLING_OPTIONS = sampling_options()
HELP = """\
/reset        forget the conversation
/system TEXT  set the system prompt; without TEXT remove it
/help         show this
/exit         leave, like Ctrl-D
Ctrl-C stops a reply."""


@with_options([*ENGINE_OPTIONS, *SAMPLING_OPTIONS])
def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model directory, or hub repository org/name; the demo model if it is demo or not "
            "given.",
        ),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System prompt.")] = "",
    adapter: Annotated[str, ADAPTER_OPTION] = "",
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Chat with a model in the terminal."""
    engine = open_engine(model, config, given(options, ENGINE_OPTIONS), adapter)
    with engine:
        notify(f"This is {engine.info.name}. /help lists commands, Ctrl-D leaves.")
        sampling = {**given(options, SAMPLING_OPTIONS), "adapter": adapter_name(adapter)}
        conversation = Conversation(engine, sampling, checked(system))
        conversation.run(read_terminal if sys.stdin.isatty() else read_pipe)


@dataclass
class Conversation:
    """The turns so far, and the commands of the user on them."""

    engine: Engine
    sampling: Mapping[str, Any]
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def run(self, read: Callable[[], str | None]) -> None:
        """Answer line by line until `read` returns None or the user leaves."""
        while (line := read()) is not None:
            command, _, rest = line.strip().partition(" ")
            if command == "/exit":
                return
            if command.startswith("/"):
                self.run_command(command, rest.strip())
            elif command:
                self.answer(line)

    def run_command(self, command: str, rest: str) -> None:
        """Run a command other than /exit."""
        match command:
            case "/reset":
                self.turns.clear()
                notify("The conversation is forgotten.")
            case "/system":
                self.system = rest
                notify("The system prompt is set." if rest else "There is no system prompt.")
            case "/help":
                notify(HELP)
            case _:
                notify(f"There is no command {command}; /help lists them.")

    def answer(self, line: str) -> None:
        """Stream one reply. Ctrl-C keeps the text so far; a failure removes the turn."""
        self.turns.append(Message(role="user", content=line))
        pieces: list[str] = []
        try:
            self._stream(pieces)
        except KeyboardInterrupt:
            show("\n")
            notify("Stopped.")
        except EngineClosedError:
            raise
        except BudmlxError as error:
            if any(pieces):
                show("\n")
            notify(f"{error.message} (/reset starts over.)")
            self.turns.pop()
            return
        self.turns.append(Message(role="assistant", content="".join(pieces)))

    def _stream(self, pieces: list[str]) -> None:
        system = [Message(role="system", content=self.system)] if self.system else []
        checked(self.turns[-1].text)
        printer = ReplyPrinter()
        events = self.engine.stream([*system, *self.turns], **self.sampling)
        with contextlib.closing(events):  # Ctrl-C must cancel the request
            for event in events:
                pieces.append(printer.show_event(event))
        show("\n")


def notify(text: str) -> None:
    """Print a message that is not the model's."""
    print(text, file=sys.stderr, flush=True)


def read_terminal() -> str | None:
    """The next line that is typed; Ctrl-C empties it, Ctrl-D gives None."""
    while True:
        try:
            return input("> ")
        except KeyboardInterrupt:
            notify("\n(Ctrl-D leaves.)")
        except EOFError:
            notify("")
            return None


def read_pipe() -> str | None:
    """The next line of a pipe, or None at its end."""
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None
