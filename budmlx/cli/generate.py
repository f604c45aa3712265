"""`budmlx generate`: one prompt, one reply."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from budmlx.cli.flags import CONFIG_OPTION, config_options, given, sampling_options, with_options
from budmlx.cli.load_model import ADAPTER_OPTION, ENGINE_FIELDS, adapter_name, open_engine
from budmlx.cli.terminal import ReplyPrinter, checked, show
from budmlx.errors import BudmlxError, InvalidRequestError, ModelLoadError

ENGINE_OPTIONS = config_options(ENGINE_FIELDS)
SAMPLING_OPTIONS = sampling_options()


@with_options([*ENGINE_OPTIONS, *SAMPLING_OPTIONS])
def generate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PROMPT",
            help="A single word (or quoted text) is the prompt for the demo model; of several, "
            "the first is the model. The prompt - reads standard input.",
        ),
    ],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    stream: Annotated[bool, typer.Option(help="Print the reply while it is made.")] = True,
    adapter: Annotated[str, ADAPTER_OPTION] = "",
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    **options: Any,
) -> None:
    """Answer one prompt and print the reply.

    MODEL is a directory or a hub repository. Quote a prompt of several words.
    """
    model, prompt = split(words)
    messages = [{"role": "system", "content": checked(system)}] if system else []
    messages.append({"role": "user", "content": checked(prompt)})
    sampling = {**given(options, SAMPLING_OPTIONS), "adapter": adapter_name(adapter)}
    try:
        engine = open_engine(model, config, given(options, ENGINE_OPTIONS), adapter)
    except ModelLoadError as error:
        if model is not None and len(words) > 2:
            raise BudmlxError(f"{error.message} Quote a prompt of several words.") from error
        raise
    with engine:
        if stream:
            printer = ReplyPrinter()
            for event in engine.stream(messages, **sampling):
                printer.show_event(event)
        else:
            show(engine.chat(messages, **sampling).text)
    show("\n")


def split(words: list[str]) -> tuple[str | None, str]:
    """Model and prompt from the arguments. The prompt `-` is read from standard input."""
    model, prompt = (None, words[0]) if len(words) == 1 else (words[0], " ".join(words[1:]))
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if not prompt.strip():
        raise InvalidRequestError("The prompt is empty.")
    return model, prompt
