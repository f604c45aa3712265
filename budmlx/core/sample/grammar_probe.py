"""Probe of grammars: finds those that llguidance cannot follow before anybody generates, and words
the errors for clients.

llguidance bounds the work of one token, so a grammar may compile and yet fail later, where a reply
can continue in too many ways at once.
"""

from __future__ import annotations

import re
import time

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

LIMITS = LLParserLimits(verbose_errors=False)
"""llguidance's own, with errors that do not hold the parser's whole state."""
STEPS = 100
SECONDS = 0.25
MAX_MESSAGE = 300

# In this order they lead through all of a JSON document with little text.
STRUCTURE = '"{[],:}'
# Control tokens, as grammars spell them, are where free text ends.
MARKER = re.compile(r"<\[(\d+)\]>")


def problem_of(matcher: LLMatcher) -> str:
    """The error of a matcher in words for a client; empty if there is none."""
    error = " ".join(matcher.get_error().partition("\n<")[0].split())[:MAX_MESSAGE]
    if not error:
        return ""
    if "NoExtension" in error:
        return "no text satisfies it"
    if "satisfy the grammar" in error or "parser stopped" in error:
        return "a token was drawn that it does not allow"
    return (
        "it leaves too much open at one place, such as hundreds of optional properties or "
        f"alternatives; make properties required, or split it ({error})"
    )


def probe(matcher: LLMatcher, tokenizer: LLTokenizer, source: str) -> str:
    """Generate a while with a copy of a fresh matcher of `source`; returns the problem, or ""."""
    follower = matcher.deep_copy()
    structure = map(tokenizer.greedy_tokenize, STRUCTURE)
    preferred = [*map(int, MARKER.findall(source)), *(ids[0] for ids in structure if len(ids) == 1)]
    deadline = time.monotonic() + SECONDS
    for _ in range(STEPS):
        mask = np.frombuffer(follower.compute_bitmask(), np.uint8)
        if follower.is_stopped() or time.monotonic() > deadline:
            break
        allowed = np.unpackbits(mask, bitorder="little")
        lowest = int(allowed.argmax())
        token = next((id_ for id_ in preferred if allowed[id_ : id_ + 1].any()), lowest)
        if not follower.consume_tokens(follower.compute_ff_tokens() or [token]):
            break
    return problem_of(follower)
