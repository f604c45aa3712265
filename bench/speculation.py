"""Decode speed with drafts against without, of rows that say what a script says.

No model of this size edits files, so that the logits of every pass, which are computed, get the
scripted token as the best one: passes, draws and drafts are those of a model that edits well.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from llguidance import LLMatcher
from tokenizers import Tokenizer

import budmlx
from bench.rows import SETTINGS, greedy
from budmlx.core.batch.executor import Executor
from budmlx.core.batch.group import Group
from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol import GenerateRequest, Grammar, Token

PACKAGE = Path(budmlx.__file__).parent
FILES = ("core/schedule/admission.py", "core/batch/slots.py", "engine/run/rows.py")
WORDS = ("value", "result", "number", "entry", "place", "found", "wanted", "left", "kept", "text")
CERTAIN = 1e4
"""The logit of a scripted token."""
PROMPTS_FIRST = 1e6
"""How much slower prompts may make steps: all rows are to be there at once."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What rows say. users: rows at once. pairs: of runs with and without drafts."""

    reply: str
    users: int
    tokens: int
    pairs: int


KINDS = {
    "rewrite_1": Kind("rewrite", 1, 240, 3),
    "rewrite_4": Kind("rewrite", 4, 200, 3),
    "rewrite_16": Kind("rewrite", 16, 160, 3),
    "replace_1": Kind("replace", 1, 240, 3),
    "predicted_1": Kind("predicted", 1, 240, 3),
    "json_1": Kind("json", 1, 240, 3),
    "chat_1": Kind("chat", 1, 160, 9),
    "chat_4": Kind("chat", 4, 120, 9),
    "chat_16": Kind("chat", 16, 80, 9),
}
# Tokens of what is asked in a chat.
CHAT_PROMPT = 60


@dataclass(frozen=True, slots=True)
class Script:
    """A prompt, what is said after it, and what else the row has."""

    prompt: list[int]
    reply: list[int]
    more: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. pairs, tokens: instead of those of each kind. file: tokens of the
    files that are edited."""

    pairs: int | None = None
    tokens: int | None = None
    file: int = 400


DEFAULTS = Sizes()


def speculation(
    path: Path, kinds: Sequence[str] = tuple(KINDS), sizes: Sizes = DEFAULTS
) -> dict[str, float]:
    """Medians over pairs of tokens per second with `--speculation auto`, as ratios to those
    without, and the tokens per second without.
    """
    model = load_model(msgspec.structs.replace(SETTINGS, model_path=str(path), speculation="auto"))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    found: dict[str, float] = {}
    for name in kinds:
        kind = KINDS[name]
        kind = replace(kind, pairs=sizes.pairs or kind.pairs, tokens=sizes.tokens or kind.tokens)
        scripts = [_script(kind, tokenizer, number, sizes.file) for number in range(kind.users)]
        ratios, speeds = _pairs(model, scripts, kind.pairs)
        found[f"{name}_ratio"] = statistics.median(ratios)
        found[f"{name}_tokens_per_second"] = statistics.median(speeds)
    return found


def _pairs(model: Model, scripts: Sequence[Script], pairs: int) -> tuple[list[float], list[float]]:
    """Ratios, and tokens per second without drafts; of a first pair nothing is kept."""
    both = {on: _scheduler(model, on) for on in (True, False)}
    numbers = itertools.count()
    ratios, speeds = list[float](), list[float]()
    for pair in range(pairs + 1):
        order = (True, False) if pair % 2 else (False, True)
        run = {on: _speed(both[on], scripts, numbers) for on in order}
        if pair:
            ratios.append(run[True] / run[False])
            speeds.append(run[False])
    return ratios, speeds


def _scheduler(model: Model, on: bool) -> Scheduler:
    executor = Executor(model)
    return Scheduler(
        executor,
        max_rows=SETTINGS.max_rows,
        prefill_chunk=executor.numbers.prefill_chunk,
        stream_slowdown=PROMPTS_FIRST,
        speculation="auto" if on else 0,
    )


def _speed(scheduler: Scheduler, scripts: Sequence[Script], numbers: itertools.count[int]) -> float:
    """Tokens per second after all rows have begun."""
    rows = {next(numbers): script for script in scripts}
    # Of its own: what rows said in the pair before is what these say.
    namespace = str(min(rows))
    left = set(rows)
    with _scripted({row_id: [*s.prompt, *s.reply] for row_id, s in rows.items()}):
        for row_id, script in rows.items():
            scheduler.submit(_request(row_id, script, namespace))
        begun, count, begin = set[int](), 0, 0.0
        # Until all have begun, as many steps are taken with drafts as without.
        speculation, scheduler._speculation = scheduler._speculation, None
        while left:
            for token in _step(scheduler):
                begun.add(token.id)
                count += bool(begin)
                if token.reason is not None:
                    left.remove(token.id)
            if not begin and len(begun) == len(rows):
                scheduler._speculation = speculation
                begin = time.perf_counter()
    return count / (time.perf_counter() - begin)


def _step(scheduler: Scheduler) -> list[Token]:
    """The tokens of a step. Raises RuntimeError if a row failed."""
    frame = scheduler.step()
    if frame.failed:
        raise RuntimeError(frame.failed[0].message)
    return frame.tokens


def _request(row_id: int, script: Script, namespace: str) -> GenerateRequest:
    row = greedy(row_id, script.prompt, len(script.reply))
    return msgspec.structs.replace(row, namespace=namespace, **script.more)


@contextmanager
def _scripted(texts: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Context in which rows say the rest of their texts. texts: by the ids of rows."""
    forward = Group._forward

    def scripted(group: Group, fed: mx.array) -> mx.array:
        logits = forward(group, fed)
        best = np.zeros((*fed.shape, 1), dtype=np.uint32)
        for line, row in zip(best, group.rows, strict=True):
            _fill(line[:, 0], row, texts[row.id])
        return mx.put_along_axis(logits, mx.array(best), mx.array(CERTAIN, logits.dtype), axis=-1)

    Group._forward = scripted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Group._forward = forward  # type: ignore[method-assign]


def _fill(line: np.ndarray, row: Row, text: Sequence[int]) -> None:
    """The tokens after those that a row is fed."""
    coming = text[row.held + 1 : row.held + 1 + len(line)]
    line[: len(coming)] = coming


# What is said


def _script(kind: Kind, tokenizer: Tokenizer, number: int, file: int) -> Script:
    chance = random.Random(number)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    if kind.reply == "chat":
        size = tokenizer.get_vocab_size()
        said = [chance.randrange(size) for _ in range(CHAT_PROMPT + kind.tokens)]
        return Script(said[:CHAT_PROMPT], said[CHAT_PROMPT:], {})
    if kind.reply == "json":
        reply, schema = _document(chance)
        source = LLMatcher.grammar_from_json_schema(
            schema, overrides={"whitespace_flexible": False}
        )
        grammar = Grammar(source=source, param="response_format")
        return Script(ids("A report of the machine, please."), ids(reply), {"grammar": grammar})
    text = (PACKAGE / FILES[number % len(FILES)]).read_text("utf-8")
    lines = text.splitlines(keepends=True)[5 * (number // len(FILES)) :]
    sizes = itertools.accumulate(len(ids(line)) for line in lines)
    lines = [line for line, size in zip(lines, sizes, strict=True) if size <= file]
    new = _replaced(lines, chance) if kind.reply == "replace" else "".join(_edited(lines, chance))
    reply_ids = ids(new)[: kind.tokens]
    if kind.reply == "predicted":
        return Script(ids("Change the file."), reply_ids, {"prediction": ids("".join(lines))})
    return Script(ids("".join(lines)), reply_ids, {})


def _edited(lines: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Lines of which one in ten is dropped, changed or followed by a new one."""
    for line in lines:
        kind = chance.random()
        if kind < 0.03:
            continue
        if kind < 0.07 and len(words := line.split(" ")) > 2:
            words[chance.randrange(len(words) - 1)] = chance.choice(WORDS)
            yield " ".join(words)
            continue
        yield line
        if kind > 0.97:
            yield "    # " + " ".join(chance.choices(WORDS, k=6)) + "\n"


def _replaced(lines: Sequence[str], chance: random.Random) -> str:
    """Blocks of changes, each with the lines that it takes the place of."""
    blocks = []
    for at in range(2, len(lines) - 6, 9):
        old = lines[at : at + 6]
        new = [*old[:2], f"    {chance.choice(WORDS)} = {chance.choice(WORDS)}\n", *old[3:]]
        blocks.append(f"<<<<<<< SEARCH\n{''.join(old)}=======\n{''.join(new)}>>>>>>> REPLACE\n")
    return "".join(blocks)


def _document(chance: random.Random) -> tuple[str, str]:
    """A JSON text with long keys, and its schema."""
    names = [
        f"{a}_{b}_of_the_{c}" for a, b, c in itertools.product(WORDS[:2], WORDS[2:5], WORDS[5:8])
    ]
    schema = {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    text = json.dumps({name: chance.randrange(100) for name in names}, separators=(",", ":"))
    return text, json.dumps(schema)
