"""What the OpenAPI document says of sampling parameters."""

from __future__ import annotations

from typing import Any

NOTES: dict[str, str] = {
    "max_tokens": "Most tokens of a reply; clamped to the context.",
    "min_tokens": "Neither the model's end nor a stop comes before; -1: the context's end.",
    "temperature": "0 is greedy.",
    "top_p": "Keep the most likely tokens of this total probability.",
    "top_k": "Keep so many of the most likely tokens; 0 or -1: all.",
    "min_p": "Drop tokens below this share of the most likely one.",
    "typical_p": "Keep the locally typical tokens of this total probability.",
    "frequency_penalty": "Taken off a token's logit for each time it was generated.",
    "presence_penalty": "Taken off a token's logit once it was generated.",
    "repetition_penalty": "Makes tokens of prompt and reply less likely; 1 changes nothing.",
    "repetition_window": "How many last tokens that penalty looks at; 0: all.",
    "logit_bias": "Token id to a value that is added to its logit; -100 bans, 100 is exclusive. "
    "Ids outside the vocabulary are ignored and listed in `warnings`.",
    "seed": "The same seed draws the same random numbers, whatever else is running.",
    "random_seed": "Another name of `seed`, which goes before it.",
    "n": "How many choices; they share one prefill.",
    "stop_token_ids": "Ids that end a reply like the model's own end does.",
    "ignore_eos": "The model's own end does not end a reply.",
}
"""A sentence on each field, by its name."""


def describe(schema: dict[str, Any]) -> None:
    """Add the sentences to the schema of a body."""
    for name, field in schema["properties"].items():
        if name in NOTES:
            field["description"] = NOTES[name]
