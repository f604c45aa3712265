"""Scenarios of the bench. Every server gets the same prompts, lengths and options.

Prompts are never repeated within a run, so that no prefix cache helps, except where KV
reuse is what is measured: `shared-16` and `turns-20`.

Those named here run on the bench's model with peaked logits; those whose names begin with
`flat-` and `smollm2-` on the same with flat logits and on a real model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from budmlx.benchmark.load import WORDS, chat_body, random_prompt

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 0.8, "top_p": 0.95}
PENALTIES = {**SAMPLED, "frequency_penalty": 0.5, "presence_penalty": 0.5}
CONSTRAINED = {
    **SAMPLED,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "report",
            "schema": {
                "type": "object",
                # Longer than any reply, so that all replies have the requested length.
                "properties": {"text": {"type": "string", "minLength": 4000}},
                "required": ["text"],
                "additionalProperties": False,
            },
        },
    },
}
LOGPROBS = {**SAMPLED, "logprobs": True, "top_logprobs": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """`users` users work through `requests` requests.

    max_tokens: range from which each request's length is drawn. seeded: each has a seed.
    repeated: all requests are the same. ours: peers lack the feature that it measures.
    shared_tokens: of a system message with which all requests of a round begin.
    """

    name: str
    users: int
    requests: int
    options: Mapping[str, Any]
    prompt_tokens: int = 40
    max_tokens: tuple[int, int] = (48, 80)
    seeded: bool = False
    repeated: bool = False
    ours: bool = False
    shared_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Requests that arrive one by one while `streams` others run.

    alone: the number of the same requests that are first timed on the idle server.
    """

    name: str
    streams: int = 15
    stream_tokens: int = 400
    probes: int
    alone: int
    probe_tokens: int
    prompt_tokens: int
    options: Mapping[str, Any] = field(default_factory=lambda: GREEDY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """A conversation of one user, in which every request repeats all that was said.

    prompt_tokens: of each message of the user. max_tokens: of each reply.
    """

    name: str
    turns: int
    prompt_tokens: int = 60
    max_tokens: int = 24
    options: Mapping[str, Any] = field(default_factory=lambda: GREEDY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLoad:
    """The first concurrent requests of a server that has just started, and as many again."""

    name: str
    users: int
    max_tokens: int = 32
    options: Mapping[str, Any] = field(default_factory=lambda: GREEDY)

    def loop(self, part: str) -> ClosedLoop:
        """One half of it, in which each user sends one request."""
        return ClosedLoop(
            name=f"{self.name} {part}",
            users=self.users,
            requests=self.users,
            options=self.options,
            max_tokens=(self.max_tokens, self.max_tokens),
        )


Scenario = ClosedLoop | Join | Turns | FirstLoad

FLAT: list[Scenario] = [
    ClosedLoop(name="flat-sampled-16", users=16, requests=40, options=SAMPLED),
]
SMOLLM2: list[Scenario] = [
    ClosedLoop(name="smollm2-greedy-1", users=1, requests=3, options=GREEDY),
    ClosedLoop(name="smollm2-greedy-16", users=16, requests=32, options=GREEDY),
    ClosedLoop(name="smollm2-sampled-16", users=16, requests=32, options=SAMPLED),
]


def scenarios(context: int) -> list[Scenario]:
    """All scenarios for a model that takes `context` tokens."""
    loops = [
        ClosedLoop(name=f"{name}-{users}", users=users, requests=requests, options=options)
        for users, requests in ((1, 4), (4, 12), (16, 40), (32, 64))
        for name, options in (("greedy", GREEDY), ("sampled", SAMPLED))
        if (name, users) != ("sampled", 4)
    ]
    return [
        FirstLoad(name="first-16", users=16),
        *loops,
        ClosedLoop(
            name="seeded-16",
            users=16,
            requests=40,
            options=SAMPLED,
            seeded=True,
        ),
        ClosedLoop(name="penalties-16", users=16, requests=40, options=PENALTIES),
        ClosedLoop(name="logprobs-16", users=16, requests=40, options=LOGPROBS),
        ClosedLoop(name="constrained-16", users=16, requests=40, options=CONSTRAINED, ours=True),
        ClosedLoop(
            name="cache-hits",
            users=1,
            requests=100,
            options={**GREEDY, "cache": True},
            max_tokens=(16, 16),
            repeated=True,
            ours=True,
        ),
        ClosedLoop(
            name="long-prompts-16",
            users=16,
            requests=20,
            options=GREEDY,
            prompt_tokens=min(400, context // 2),
            max_tokens=(24, 40),
        ),
        ClosedLoop(
            name="shared-16",
            users=16,
            requests=32,
            options=GREEDY,
            # About 1,500 words of English.
            shared_tokens=min(2000, context // 3),
            max_tokens=(32, 32),
        ),
        # A turn is twice as long as its texts in models that write a lot around messages.
        Turns(name="turns-20", turns=max(2, min(20, context // 200))),
        Join(name="late-joiner", probes=6, alone=6, probe_tokens=8, prompt_tokens=40),
        Join(
            name="long-prefill",
            stream_tokens=min(2000, context - 200),
            probes=1,
            alone=0,
            probe_tokens=40,
            prompt_tokens=min(4000, context - 500),
        ),
    ]


QUICK = ("first-16", "greedy-1", "greedy-16", "sampled-16", "seeded-16", "late-joiner")


class Bodies:
    """Makes the requests of a scenario: the same for every server, other ones each round.

    run: the requests differ with it, so that no cache on disk has them.
    """

    def __init__(self, model: Path, run: str = ""):
        self._run = run
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        sample = " ".join(WORDS * 4)
        self._tokens_per_word = self.count(sample) / (4 * len(WORDS))

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def closed_loop(self, scenario: ClosedLoop, model: str, repeat: int) -> list[dict[str, Any]]:
        """All requests of a closed loop, in order."""
        chance = random.Random(f"{self._run} {scenario.name} {repeat}")
        shared = []
        if scenario.shared_tokens:
            text = self.prompt(chance, scenario.shared_tokens, f"{repeat}")
            shared = [{"role": "system", "content": text}]
        bodies = []
        for index in range(scenario.requests):
            options = dict(scenario.options)
            if scenario.seeded:
                options["seed"] = chance.randrange(2**31)
            label = f"{repeat}" if scenario.repeated else f"{repeat}-{index}"
            source = random.Random(label) if scenario.repeated else chance
            prompt = self.prompt(source, scenario.prompt_tokens, label)
            body = chat_body(model, prompt, chance.randint(*scenario.max_tokens), **options)
            bodies.append({**body, "messages": [*shared, *body["messages"]]})
        return bodies

    def turns(self, scenario: Turns, model: str, repeat: int) -> dict[str, Any]:
        """The messages of the user, and a request without messages."""
        chance = random.Random(f"{self._run} {scenario.name} {repeat}")
        body = chat_body(model, "", scenario.max_tokens, **scenario.options)
        said = [
            self.prompt(chance, scenario.prompt_tokens, f"{repeat}-{index}")
            for index in range(scenario.turns)
        ]
        return {"body": {**body, "messages": []}, "turns": said}

    def join(self, scenario: Join, model: str, repeat: int) -> dict[str, list[dict[str, Any]]]:
        """The requests of a join: those alone, the streams, and the probes beside them."""
        chance = random.Random(f"{self._run} {scenario.name} {repeat}")

        def some(kind: str, count: int, prompt: int, length: int) -> list[dict[str, Any]]:
            return [
                chat_body(
                    model,
                    self.prompt(chance, prompt, f"{kind}-{repeat}-{index}"),
                    length,
                    **scenario.options,
                )
                for index in range(count)
            ]

        return {
            "alone": some("alone", scenario.alone, scenario.prompt_tokens, scenario.probe_tokens),
            "streams": some("stream", scenario.streams, 40, scenario.stream_tokens),
            "probes": some("probe", scenario.probes, scenario.prompt_tokens, scenario.probe_tokens),
        }

    def prompt(self, chance: random.Random, tokens: int, label: str) -> str:
        """A text of about `tokens` tokens that begins in a way no other does."""
        spare = tokens - self.count(random_prompt(random.Random(0), 0, label))
        return random_prompt(chance, max(1, round(spare / self._tokens_per_word)), label)
