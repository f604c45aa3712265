"""Rows with grammars: what they write is valid, and nobody else notices."""

from __future__ import annotations

import json
import re
import time

import mlx.core as mx
import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer

from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.sample.grammar import MAX_KEPT, Constraints, GrammarError, Grammars, RowGrammar
from budmlx.protocol import GenerateRequest, Grammar
from tests.core.driver import Driver, load, request

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["kind", "age", "tags"],
    "additionalProperties": False,
}

# It compiles, and llguidance gives up at its first property.
WIDE = {
    "type": "object",
    "properties": {f"p{i}": {"type": "string"} for i in range(520)},
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Tokenizer:
    return Tokenizer.from_file(f"{model.info.path}/tokenizer.json")


def schema(value: object) -> str:
    return LLMatcher.grammar_from_json_schema(
        {"x-guidance": {"whitespace_pattern": " "}, **value}  # type: ignore[dict-item]
    )


def constrained(row_id: int, source: str, model: Model, **changes: object) -> GenerateRequest:
    fields: dict[str, object] = {
        "temperature": 1.5,
        "seed": row_id,
        "max_tokens": 400,
        "stop_ids": list(model.info.eos_token_ids),
        "grammar": Grammar(source=source, param="response_format"),
    }
    return request(row_id, [5, 6, 7 + row_id], **{**fields, **changes})


def text(driver: Driver, tokenizer: Tokenizer, row_id: int) -> str:
    return tokenizer.decode(driver.tokens[row_id], skip_special_tokens=True)


def test_sampled_rows_follow_their_own_grammars_in_one_batch(
    model: Model, tokenizer: Tokenizer
) -> None:
    free = [request(100 + i, [9, 8, i + 1], temperature=1.0, seed=i, max_tokens=60) for i in (0, 1)]
    alone = Driver(model)
    alone.submit(*free)
    alone.run()

    driver = Driver(model)
    sources = [schema(SCHEMA), "start: /[0-9]{3}-[a-f]{2}/", 'start: "yes" | "no"']
    rows = [constrained(i, sources[i % 3], model, logprobs=2) for i in range(12)]
    driver.submit(free[0], *rows, free[1])
    driver.run()

    assert not driver.failed
    for row in rows:
        written = text(driver, tokenizer, row.id)
        assert driver.reasons[row.id] == "stop"
        if row.id % 3 == 0:
            document = json.loads(written)
            assert set(document) == {"kind", "age", "tags"} and 0 <= document["age"] <= 30
        else:
            assert re.fullmatch(r"[0-9]{3}-[a-f]{2}|yes|no", written)
    assert {row.id: driver.tokens[row.id] for row in free} == alone.tokens


def test_a_row_writes_the_same_in_any_company_and_after_a_fault(model: Model) -> None:
    source = schema(SCHEMA)
    alone = Driver(model)
    alone.submit(constrained(1, source, model))
    alone.run()
    whole = alone.tokens[1]

    crowd = Driver(model, max_rows=2)
    crowd.submit(*(constrained(i, source, model) for i in range(4)))
    crowd.run()
    assert crowd.tokens[1] == whole

    resumed = Driver(model)
    resumed.submit(constrained(1, source, model, emitted_ids=whole[:5]))
    resumed.run()
    assert resumed.tokens[1] == whole[5:]

    sent_back = Driver(model)
    sent_back.submit(constrained(1, source, model))
    while len(sent_back.tokens[1]) < 4:
        sent_back.turn()
    scheduler = sent_back.scheduler
    scheduler._requeue(list(scheduler._rows.values()))
    sent_back.run()
    assert sent_back.tokens[1] == whole


def test_the_end_comes_although_min_tokens_are_not_reached(
    model: Model, tokenizer: Tokenizer
) -> None:
    driver = Driver(model)
    driver.submit(constrained(0, 'start: "yes"', model, min_tokens=50))
    driver.run()
    assert driver.reasons == {0: "stop"} and text(driver, tokenizer, 0) == "yes"


def test_the_form_holds_where_all_that_it_allows_is_banned(
    model: Model, tokenizer: Tokenizer
) -> None:
    driver = Driver(model)
    banned = [tokenizer.encode(letter).ids[0] for letter in "yno"]
    for row, ids in enumerate((banned, banned[:1])):
        bias = tuple((token, -100.0) for token in ids)
        source = 'start: "y" | "n"' if row else 'start: "yo" | "no"'
        driver.submit(constrained(row, source, model, logit_bias=bias))
    driver.run()
    assert text(driver, tokenizer, 0) in ("yo", "no") and not driver.failed
    # A ban is one as long as there is anything else.
    assert text(driver, tokenizer, 1) == "n"


def test_a_row_cut_by_length_is_a_prefix(model: Model, tokenizer: Tokenizer) -> None:
    driver = Driver(model)
    driver.submit(constrained(0, schema(SCHEMA), model, max_tokens=4))
    driver.run()
    assert driver.reasons == {0: "length"}
    assert text(driver, tokenizer, 0).startswith("{")


def test_choices_share_a_prefill_and_each_follows_the_grammar(
    model: Model, tokenizer: Tokenizer
) -> None:
    driver = Driver(model)
    source = "start: /[a-z]{4}[0-9]/"
    changes = {"fork": 1, "seed": 3}
    rows = [constrained(i, source, model, choice=i, **changes) for i in (1, 2, 3)]
    rows = [
        GenerateRequest(
            **{**{f: getattr(row, f) for f in row.__struct_fields__}, "prompt_ids": [4]}
        )
        for row in rows
    ]
    driver.submit(*rows)
    driver.run()
    written = [text(driver, tokenizer, row.id) for row in rows]
    assert all(re.fullmatch("[a-z]{4}[0-9]", item) for item in written) and len(set(written)) > 1


@pytest.mark.parametrize(
    "source",
    [
        schema({"type": "notatype"}),
        schema({"type": "string", "pattern": "(?<=a)b"}),
        schema({"not": {"type": "string"}}),
        schema({"$ref": "#"}),
        schema({"$ref": "http://127.0.0.1:9/x.json"}),
        schema({"$ref": "file:///etc/passwd"}),
        schema({"enum": [f"v{i}" for i in range(100_000)]}),
        schema(WIDE),
        schema(
            {
                "type": "object",
                "properties": {"id": {"type": "string"}, "all": {"type": "array", "items": WIDE}},
                "required": ["id", "all"],
            }
        ),
        'start: "a',
        "start: missing",
    ],
    ids=lambda source: source[:40],
)
def test_a_grammar_that_cannot_be_used_fails_its_row_alone(model: Model, source: str) -> None:
    driver = Driver(model)
    driver.submit(constrained(1, source, model), request(2, [3, 4], max_tokens=20))
    driver.run()
    assert driver.failed[1].code == "invalid_grammar"
    assert driver.failed[1].param == "response_format" and not driver.tokens[1]
    assert len(driver.tokens[2]) == 20 and driver.reasons[2] == "length"


# LIMITS 75
def test_a_grammar_that_breaks_late_says_what_to_do(model: Model, tokenizer: Tokenizer) -> None:
    rules = {"lark_grammar": 'start: "a" | "b" @document'}
    source = json.dumps({"grammars": [rules, {"name": "document", "json_schema": WIDE}]})
    ids = [i for i in range(model.info.vocab_size) if tokenizer.decode([i])[:1] == "a"]
    banned = {"logit_bias": tuple((i, -100.0) for i in ids)}
    driver = Driver(model)
    driver.submit(constrained(2, source, model, **banned))
    driver.run()
    assert driver.tokens[2]
    failure = driver.failed[2]
    assert failure.code == "grammar_error"
    assert "response_format" in failure.message and "optional properties" in failure.message
    assert "<" not in failure.message and len(failure.message) < 400


def test_bombs_are_compiled_or_refused_and_never_hang(model: Model) -> None:  # LIMITS 72
    deep: dict[str, object] = {"type": "string"}
    wide: dict[str, object] = {"type": "string"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    for _ in range(9):
        wide = {"anyOf": [wide, {"type": "object", "properties": {"a": wide}}]}
    patterns = ["((x{1000}){1000}){1000}", "(a|a)*b", "[ab]*a[ab]{40}"]
    bombs = [deep, wide, {"type": "string", "maxLength": 10**9}]
    bombs += [{"type": "string", "pattern": pattern} for pattern in patterns]
    driver = Driver(model)
    driver.submit(*(constrained(i, schema(b), model, max_tokens=60) for i, b in enumerate(bombs)))
    driver.submit(request(99, [3, 4], max_tokens=20))
    driver.run()
    assert len(driver.tokens[99]) == 20
    ended = driver.reasons.keys() | driver.failed.keys()
    assert ended == {*range(len(bombs)), 99}
    assert {row.code for row in driver.failed.values()} <= {"invalid_grammar", "grammar_error"}


def test_compiling_too_long_is_refused(model: Model) -> None:
    source = schema({"enum": [f"x{i}" for i in range(50_000)]})
    driver = Driver(model, compile_seconds=-1.0)
    driver.submit(constrained(1, source, model), constrained(2, source, model))
    driver.scheduler.cancel(2)
    driver.run()
    assert "longer" in driver.failed[1].message and 2 not in driver.failed


def test_a_busy_machine_is_not_the_grammars_fault(model: Model) -> None:
    driver = Driver(model, compile_seconds=0.2)
    pool = driver.scheduler._compiling._grammars._pool
    for _ in range(2):
        pool.submit(time.sleep, 0.5)
    driver.submit(constrained(1, 'start: "yes"', model))
    driver.run()
    assert not driver.failed and driver.tokens[1]


def test_kept_grammars_are_bounded(model: Model) -> None:  # LIMITS 74
    grammars = Grammars(model.info)
    for number in range(3 * MAX_KEPT):
        grammars.start(f'start: "{number}"').matcher.result()
    assert len(grammars._kept) == MAX_KEPT
    assert grammars.start('start: "1"') is grammars.start('start: "1"')
    with pytest.raises(GrammarError):
        grammars.start("start: nothing").matcher.result()


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 512, 151_936])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_masks_go_over_as_one_bit_a_token(vocab: int, dtype: mx.Dtype, model: Model) -> None:
    row, free = Row.of(request(1, [5])), Row.of(request(2, [5]))
    row.grammar = RowGrammar(Grammars(model.info).start('start: "a"').matcher.result())
    constraints = Constraints([free, row], vocab)
    assert constraints._masks.nbytes == 4 * -(-vocab // 32)
    rng = np.random.default_rng(vocab)
    bits = rng.random(vocab) < 0.5

    def fill(unread: object, faults: object) -> list[bool]:
        packed = np.packbits(bits, bitorder="little").tobytes()
        constraints._masks.view(np.uint8)[0, : len(packed)] = np.frombuffer(packed, np.uint8)
        return [False]

    constraints._follow = fill  # type: ignore[method-assign,assignment]
    logits = mx.array(rng.normal(size=(2, vocab))).astype(dtype)
    masked = constraints.apply(logits, {}, {})
    assert mx.array_equal(masked[0], logits[0])
    assert mx.array_equal(masked[1], mx.where(mx.array(bits), logits[1], -mx.inf))
