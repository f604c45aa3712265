"""What is reused of `../train_tiny`, whose modules are found through the path set here."""

import sys
from pathlib import Path

TINY = Path(__file__).parents[1] / "train_tiny"
sys.path.append(str(TINY))

from canned import SYSTEM_PROMPTS  # noqa: E402
from data import assistant, evaluation, history, training, user  # noqa: E402
from render import Message, Sample, answer_text, render  # noqa: E402
from shape import Shape  # noqa: E402
from skills import vary  # noqa: E402
from words import Words  # noqa: E402

__all__ = [
    "SYSTEM_PROMPTS",
    "TINY",
    "Message",
    "Sample",
    "Shape",
    "Words",
    "answer_text",
    "assistant",
    "evaluation",
    "history",
    "render",
    "training",
    "user",
    "vary",
]
