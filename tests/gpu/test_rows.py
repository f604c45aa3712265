"""Rows from their prompt to their end on the device: parameters, grammars and stored KV."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer

from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import open_reuse
from budmlx.protocol import Grammar, KVStoreSettings
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.gpu.device import HALF
from tests.gpu.ties import TIES, gaps, loaded
from tests.models import tiny_model_dir

TOKENS = 40
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "maximum": 30}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}


@cache
def model() -> Model:
    found = load(tiny_model_dir(ARCHITECTURES["llama"], scale=3.0))
    found.module.set_dtype(HALF)
    return found


def rows() -> dict[int, dict[str, Any]]:
    """One row for every parameter, the plain ones first."""
    changes: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"temperature": 1.8},
        {"top_p": 0.5},
        {"top_k": 3},
        {"min_p": 0.3},
        {"typical_p": 0.5},
        {"frequency_penalty": 2.0},
        {"presence_penalty": 2.0},
        {"repetition_penalty": 2.0},
        {"repetition_penalty": 1.5, "repetition_window": 8},
        {"logit_bias": ((77, 100.0),)},
        {"logit_bias": ((77, -100.0),)},
        {"logprobs": 5},
        {"min_tokens": 30, "stop_ids": list(range(256))},
        {"stop_ids": list(range(512))},
    ]
    return dict(enumerate(changes))


def run(kinds: dict[int, dict[str, Any]]) -> Driver:
    driver = Driver(model())
    for i, changes in kinds.items():
        fields = {"temperature": 1.0, "seed": i, "max_tokens": TOKENS, **changes}
        driver.submit(request(i, [9, 8, 7 + i], **fields))
    driver.run()
    return driver


def test_every_parameter_is_honoured_beside_all_others() -> None:
    driver = run(rows())
    assert driver.failed == {}
    tokens = driver.tokens
    assert [len(tokens[i]) for i in range(14)] == [TOKENS] * 14
    assert set(tokens[11]) == {77}
    assert 77 not in tokens[12]
    assert len(tokens[14]) >= 30
    assert len(tokens[15]) == 1
    # A penalty of 2 on each repetition leaves little of it.
    assert max(map(tokens[7].count, tokens[7])) < 10
    told = [token for frame in driver.frames for token in frame.tokens if token.id == 13]
    assert all(token.logprob is not None and len(token.top) == 5 for token in told)


def test_the_same_rows_draw_the_same_again() -> None:
    assert run(rows()).tokens == run(rows()).tokens


def test_a_grammar_is_followed_beside_free_rows() -> None:
    source = LLMatcher.grammar_from_json_schema(
        {"x-guidance": {"whitespace_pattern": " "}, **SCHEMA}
    )
    grammar = Grammar(source=source, param="response_format")
    ends = list(model().info.eos_token_ids)
    kinds: dict[int, dict[str, Any]] = {
        0: {},
        1: {"grammar": grammar, "stop_ids": ends, "max_tokens": 300},
        2: {"temperature": 0.0},
        3: {"grammar": grammar, "stop_ids": ends, "max_tokens": 300, "temperature": 1.5},
    }
    driver = run(kinds)
    tokenizer = Tokenizer.from_file(f"{model().info.path}/tokenizer.json")
    for i in (1, 3):
        assert driver.reasons[i] == "stop"
        reply = json.loads(tokenizer.decode(driver.tokens[i], skip_special_tokens=True))
        assert reply["kind"] in ("cat", "dog")
        assert reply["age"] <= 30
    assert [len(driver.tokens[i]) for i in (0, 2)] == [TOKENS] * 2


@pytest.mark.parametrize("bits", [None, 8])
def test_stored_kv_is_read_from_memory_and_from_disk(tmp_path: Path, bits: int | None) -> None:
    ours, theirs = loaded("real", None, HALF)
    if bits is not None:
        ours = load(tiny_model_dir(ARCHITECTURES["llama"], scale=3.0), kv_bits=bits)
        ours.module.set_dtype(HALF)
    shared = [3 + (7 * i) % 250 for i in range(700)]
    prompts = {0: [*shared, 5], 1: [*shared, 6, 7], 2: [*shared, 8]}
    store = KVStoreSettings(directory=str(tmp_path), limit=2**30)
    told, cached = {}, {}
    for together in ((0, 1), (2,)):
        reuse = open_reuse(ours, 0.5, store)
        driver = Driver(ours, prefill_chunk=256, reuse=reuse)
        for key in together:
            driver.submit(request(key, prompts[key], max_tokens=12))
            driver.run()
        reuse.close(20)
        told |= driver.tokens
        tokens = [token for frame in driver.frames for token in frame.tokens]
        cached |= {t.id: (t.cached, t.from_disk) for t in tokens if t.cached}
    assert cached[1][0] >= 512
    assert cached[2][1] >= 512
    for key, ids in prompts.items():
        assert len(told[key]) == 12
        if bits is None:
            assert gaps(theirs, ids, told[key]).max() < TIES[HALF]
