"""Guided decoding: masks of the tokens that the grammars of rows allow next.

llguidance compiles grammars and follows the text. They are compiled on threads beside the
core's, cached for equal requests, and turned into masks for the rows of a group. Masks are
computed on the CPU while the device runs the forward pass.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

from budmlx.core.row import Row, RowFault
from budmlx.core.sample.grammar_probe import LIMITS, MAX_MESSAGE, probe, problem_of
from budmlx.core.sample.numeric import fused
from budmlx.lookup import Bounded
from budmlx.threads import cpu_clock
from budmlx.types import ModelInfo

COMPILE_SECONDS = 2.0
PATIENCE = 10
"""Times that a row may wait, on a busy machine, for each second that compiling may take."""
MAX_KEPT = 64
MAX_KEPT_CHARACTERS = 4 * 2**20
POLL_SECONDS = 0.002


class GrammarError(Exception):
    """A grammar cannot be used; the text is for the client."""


class Compilation:
    """A grammar on its way. matcher: the result, to be copied before it is used."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[Compilation], LLMatcher]):
        self._clock: Callable[[], float] | None = None
        self.matcher: Future[LLMatcher] = pool.submit(work, self)

    def begin(self) -> None:
        """Count the time of the calling thread from now on."""
        self._clock = cpu_clock()

    @property
    def seconds(self) -> float:
        """CPU time that it has taken, while it is not done; 0 while it waits."""
        return 0.0 if self._clock is None else self._clock()


class Grammars:
    """Compiles the grammars of one model and caches the last ones. Thread-safe.

    token_decoder: JSON that stands for the decoder in tokenizer.json; empty leaves it.
    seconds: of each that was compiled, until somebody takes them. kept: rows that found theirs
    compiled, or being compiled.
    """

    def __init__(self, info: ModelInfo, token_decoder: str = ""):
        self._file = Path(info.path) / "tokenizer.json"
        self._decoder = token_decoder
        self._vocab = info.vocab_size
        self._eos_ids = list(info.eos_token_ids)
        self.seconds: deque[float] = deque()
        self.kept = 0
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="budmlx-grammar")
        self._lock = threading.Lock()  # of the tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._kept: Bounded[str, Compilation] = Bounded(count=MAX_KEPT, limit=MAX_KEPT_CHARACTERS)

    def start(self, source: str) -> Compilation:
        """Begin to compile, or find what was compiled before."""
        compiled = self._kept.get(source)
        if compiled is None:
            compiled = Compilation(self._pool, partial(self._timed, source))
            # However long it is, the other choices of its request find it.
            self._kept.put(source, compiled, min(len(source), MAX_KEPT_CHARACTERS))
        else:
            self.kept += 1
        return compiled

    def _timed(self, source: str, compilation: Compilation) -> LLMatcher:
        begin = time.perf_counter()
        try:
            return self._compile(source, compilation)
        finally:
            self.seconds.append(time.perf_counter() - begin)

    def _compile(self, source: str, compilation: Compilation) -> LLMatcher:
        tokenizer = self._loaded_tokenizer()
        compilation.begin()  # The tokenizer, of whatever size, is not the grammar's fault.
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(" ".join(matcher.get_error().split())[:MAX_MESSAGE])
        # What nothing satisfies is found out by asking for the first token.
        matcher.compute_bitmask()
        if matcher.is_stopped() and not matcher.is_accepting():
            raise GrammarError(problem_of(matcher) or "no text satisfies it")
        if problem := probe(matcher, tokenizer, source):
            raise GrammarError(problem)
        return matcher

    def _loaded_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                try:
                    text = self._file.read_text("utf-8")
                    if self._decoder:
                        spec = json.loads(text)
                        text = json.dumps({**spec, "decoder": json.loads(self._decoder)})
                    self._tokenizer = LLTokenizer(
                        text, n_vocab=self._vocab, eos_token=self._eos_ids or None
                    )
                except Exception as error:  # The library raises nothing more specific.
                    raise GrammarError(
                        "this model cannot be constrained, since its tokenizer.json is missing "
                        "or cannot be read"
                    ) from error
            return self._tokenizer


class CompilingRows:
    """Rows that wait for their grammars.

    seconds: of CPU time; a grammar that takes longer is refused. rows: those that wait, by their
    ids, each with its grammar and the `time.monotonic` at which it is refused at the latest; for
    others to read.
    """

    def __init__(self, grammars: Grammars, seconds: float = COMPILE_SECONDS):
        self._grammars = grammars
        self._seconds = seconds
        self.rows: dict[int, tuple[Row, Compilation, float]] = {}

    def add(self, row: Row) -> None:
        """Compile the grammar of a row."""
        grammar = row.request.grammar
        assert grammar is not None
        compiled = self._grammars.start(grammar.source)
        self.rows[row.request.id] = (row, compiled, time.monotonic() + self._seconds * PATIENCE)

    def cancel(self, row_id: int) -> None:
        """Forget a row; unknown ids are ignored."""
        self.rows.pop(row_id, None)

    def done(self, *, idle: bool) -> Iterator[tuple[Row, str]]:
        """Rows that need not wait any more, each with its grammar's problem, or an empty string.

        idle: there is nothing else to do, so that waiting a moment costs nobody.
        """
        if idle and self.rows:
            wait([compiled.matcher for _, compiled, _ in self.rows.values()], POLL_SECONDS)
        for row_id, (row, compiled, deadline) in list(self.rows.items()):
            if compiled.matcher.done():
                problem = _problem(compiled.matcher)
                if not problem:
                    row.grammar = RowGrammar(compiled.matcher.result().deep_copy())
            elif compiled.seconds > self._seconds or time.monotonic() > deadline:
                problem = f"it takes longer than {self._seconds:.0f} s to compile"
            else:
                continue
            del self.rows[row_id]
            yield row, problem


def _problem(compiled: Future[LLMatcher]) -> str:
    error = compiled.exception()
    if error is None:
        return ""
    return str(error) if isinstance(error, GrammarError) else "it cannot be compiled"


class RowGrammar:
    """One row's position in its grammar."""

    def __init__(self, matcher: LLMatcher):
        self.matcher = matcher
        self.consumed = 0

    def reset(self) -> None:
        """Go back to the beginning; all of the row's tokens are consumed again."""
        self.matcher.reset()
        self.consumed = 0

    def follow(self, tokens: list[int]) -> str:
        """Consume further tokens. Returns the problem, or an empty string."""
        self.consumed += len(tokens)
        if tokens and not self.matcher.consume_tokens(tokens):
            return problem_of(self.matcher)
        return ""

    def forced(self, tokens: list[int]) -> list[int]:
        """Consume further tokens. Returns those after them in which there is no choice of text.

        They are what a tokenizer makes of that text; other tokens may spell it, too.
        """
        if self.follow(tokens) or self.matcher.is_stopped():
            return []
        return list(self.matcher.compute_ff_tokens())


@cache
def _executor() -> LLExecutor:
    return LLExecutor()


class Constraints:
    """The grammars of a group's rows, applied to their logits. vocab: width of the logits."""

    def __init__(self, rows: Sequence[Row], vocab: int):
        self._indices = [i for i, row in enumerate(rows) if row.grammar is not None]
        self._rows = [rows[i] for i in self._indices]
        self._all = len(self._rows) == len(rows)
        self._vocab = vocab
        self._masks = allocate_token_bitmask(len(self._rows), vocab)
        # Copies that follow what was drafted: not every matcher can take tokens back.
        self._followers: dict[int, LLMatcher] = {}

    def apply(
        self,
        logits: mx.array,
        unread: Mapping[Row, list[int]],
        faults: dict[Row, RowFault],
        drafts: Sequence[Sequence[int]] = (),
        place: int = 0,
    ) -> mx.array:
        """The logits [rows, vocab] with -inf for tokens that a row's grammar does not allow.

        unread: tokens that rows have drawn and that are not in their ids yet.
        faults: receives rows that broke their grammar. place: how many of the tokens that `drafts`
        has for each row of the group come before.
        """
        finished = self._advance(drafts, place, faults) if place else self._follow(unread, faults)
        allowed = fused(_expanded, self._vocab)(mx.array(self._masks.view(np.uint32)))
        x = logits if self._all else logits[mx.array(self._indices)]
        if any(finished):
            # The end must be drawn now, whatever else was to keep the row from ending.
            x = mx.where(mx.array(finished)[:, None], mx.zeros_like(x), x)
        x = mx.where(allowed, x, -mx.inf)
        if self._all:
            return x
        constrained = mx.array(logits)
        constrained[mx.array(self._indices)] = x
        return constrained

    def _follow(self, unread: Mapping[Row, list[int]], faults: dict[Row, RowFault]) -> list[bool]:
        """Fill the masks; returns for each row whether its text is complete."""
        self._masks[:] = -1
        wanted: list[tuple[LLMatcher, int]] = []
        finished = [False] * len(self._rows)
        for i, row in enumerate(self._rows):
            ahead = unread.get(row, [])
            if row in faults or any(token in row.request.stop_ids for token in ahead):
                continue  # Its step comes too late to matter.
            assert row.grammar is not None
            tokens = row.generated(row.grammar.consumed)
            if problem := row.grammar.follow([*tokens, *ahead]):
                faults[row] = _fault(row, problem)
                continue
            finished[i] = row.grammar.matcher.is_stopped()
            wanted.append((row.grammar.matcher, i))
        if wanted:
            fill_next_token_bitmask_par(_executor(), wanted, self._masks)
        self._allow_stops(wanted, faults)
        return finished

    def _advance(
        self, drafts: Sequence[Sequence[int]], place: int, faults: dict[Row, RowFault]
    ) -> list[bool]:
        """The same as `_follow` after one more drafted token of each row.

        One that is not allowed cannot be drawn before it, so that what comes after it is of no
        interest.
        """
        self._masks[:] = -1
        wanted: list[tuple[LLMatcher, int]] = []
        finished = [False] * len(self._rows)
        before, self._followers = self._followers, {}
        for i, row in enumerate(self._rows):
            token = drafts[self._indices[i]][place - 1 : place]
            if row in faults or row.grammar is None or not token:
                continue
            follower = row.grammar.matcher.deep_copy() if place == 1 else before.get(i)
            if follower is None or not follower.consume_tokens(list(token)):
                continue
            self._followers[i] = follower
            finished[i] = follower.is_stopped()
            wanted.append((follower, i))
        if wanted:
            fill_next_token_bitmask_par(_executor(), wanted, self._masks)
        self._allow_stops(wanted, {})  # It may never come to this.
        return finished

    def _allow_stops(
        self, filled: Sequence[tuple[LLMatcher, int]], faults: dict[Row, RowFault]
    ) -> None:
        words = self._masks.view(np.uint32)
        for matcher, i in filled:
            row = self._rows[i]
            if problem := problem_of(matcher):
                faults[row] = _fault(row, problem)
            elif matcher.is_accepting():
                for token in row.request.stop_ids:
                    words[i, token // 32] |= np.uint32(1 << (token % 32))


def _expanded(vocab: int, words: mx.array) -> mx.array:
    """Bool [rows, vocab] of bits in uint32 [rows, words], the lowest one first."""
    bits = (words[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(words.shape[0], -1)[:, :vocab] != 0


def _fault(row: Row, problem: str) -> RowFault:
    grammar = row.request.grammar
    assert grammar is not None
    return "grammar_error", f"The reply cannot go on in the form of {grammar.param}: {problem}."
