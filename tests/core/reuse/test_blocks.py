"""Rows that begin with what was computed before: same tokens, exact counts, nobody else's."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.protocol import GenerateRequest, Grammar, KVStoreSettings, StepFrame
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, KINDS, SCALES
from tests.core.driver import Driver, load, request
from tests.core.model.test_memory import WIDE
from tests.core.schedule.test_scheduler import Faulty
from tests.models import tiny_model_dir

BLOCK = 8
PLAIN = ["llama", "qwen3", "deepseek_v3", "phi3", "gemma2"]


class Reusing(Driver):
    """A driver with a tree of small blocks, which notes what each row reused."""

    def __init__(
        self,
        model: Model,
        *,
        limit: int = 2**30,
        block: int = BLOCK,
        least: int = 1,
        kv_store: KVStoreSettings | None = None,
        **options: Any,
    ):
        self.reuse = BlockReuse(model, limit, block=block, least=least, kv_store=kv_store)
        super().__init__(model, reuse=self.reuse, **options)
        self.cached: dict[int, int] = {}

    def turn(self) -> StepFrame:
        frame = super().turn()
        for token in frame.tokens:
            assert not token.cached or len(self.tokens[token.id]) == 1
            self.cached[token.id] = self.cached.get(token.id, 0) + token.cached
        tree = self.reuse.tree
        assert tree.nbytes == sum(block.nbytes for block in tree._order)
        return frame

    def once(self, item: GenerateRequest) -> list[int]:
        self.submit(item)
        self.run()
        return self.tokens[item.id]

    def at_rest(self) -> None:
        """Nothing is held when nothing runs."""
        assert not self.scheduler.busy and self.reuse.tree.pinned == 0
        assert not any(block.pins for block in self.reuse.tree._order)


@cache
def plain(name: str) -> Model:
    return load(tiny_model_dir(ARCHITECTURES[name], scale=SCALES.get(name, 3.0), seed=7))


@pytest.fixture(scope="module")
def model() -> Model:
    return plain("llama")


def cold(model: Model, *requests: GenerateRequest) -> dict[int, list[int]]:
    """The tokens of each request alone, without any reuse."""
    tokens = {}
    for item in requests:
        driver = Driver(model)
        driver.submit(item)
        driver.run()
        tokens[item.id] = driver.tokens[item.id]
    return tokens


def at_rest_memory() -> int:
    """Bytes in use when nothing of former tests is left behind."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    return mx.get_active_memory()


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(3, 260) for _ in range(count)]


@pytest.mark.parametrize("name", usually(KINDS.__contains__, PLAIN))
def test_hits_of_every_length_around_block_boundaries(name: str) -> None:
    model = plain(name)
    stored = words(1, 3 * BLOCK + 3)
    lengths = [1, 2, *range(BLOCK - 1, BLOCK + 3), *range(2 * BLOCK - 1, 3 * BLOCK + 4)]
    asked = {
        length: request(length, [*stored[:length], 300 + length, *words(length, 4)], max_tokens=6)
        for length in lengths
    }
    want = cold(model, *asked.values())
    for chunk in (5, 64):
        driver = Reusing(model, prefill_chunk=chunk)
        driver.once(request(100, stored, max_tokens=1))
        for length, item in asked.items():
            assert driver.once(item) == want[length], length
            # A request before may have stored one token more in common: none does, by its 300s.
            assert driver.cached[length] == length
        driver.at_rest()


@pytest.mark.parametrize("name", usually(KINDS.__contains__, PLAIN))
@pytest.mark.parametrize("length", [1, 2, BLOCK, BLOCK + 1, 2 * BLOCK + 1, 70])
def test_an_exact_repeat_computes_the_last_token_only(name: str, length: int) -> None:
    model = plain(name)
    item = request(1, words(length, length), max_tokens=5)
    driver = Reusing(model, prefill_chunk=16)
    first = driver.once(item)
    again = driver.once(replace_id(item, 2))
    assert first == again == cold(model, item)[1]
    assert (driver.cached[1], driver.cached[2]) == (0, length - 1)


def replace_id(item: GenerateRequest, row_id: int, **changes: Any) -> GenerateRequest:
    fields = {name: getattr(item, name) for name in item.__struct_fields__}
    return GenerateRequest(**{**fields, "id": row_id, **changes})


@pytest.mark.parametrize("name", usually("llama".__eq__, ["llama", "deepseek_v3"]))
def test_the_next_turn_finds_the_whole_conversation(name: str) -> None:
    """Replies end by a stop id, by length, and by a parent that found a stop string."""
    model = plain(name)
    driver = Reusing(model, prefill_chunk=16)
    neighbour = request(999, words(99, 30), max_tokens=2000)
    driver.submit(neighbour)
    driver.turns(3)
    conversation = words(2, 13)
    known = {0}
    for turn in range(9):
        item = request(turn, conversation, max_tokens=9)
        want = cold(model, item)[turn]
        if turn % 3 == 1:
            want = want[: want.index(want[5]) + 1]
            item = replace_id(item, turn, stop_ids=[want[-1]])
        driver.submit(item)
        while turn not in driver.reasons and (turn % 3 < 2 or len(driver.tokens[turn]) < 4):
            driver.turn()
        driver.scheduler.cancel(turn)
        got = driver.tokens[turn]
        assert got == want[: len(got)] and driver.cached[turn] in known
        whole = len(conversation) + len(got)
        # The token that ends a reply by its length is computed only if neighbours go on.
        known = {whole, whole - 1} if turn % 3 == 0 else {whole}
        conversation = [*conversation, *got, *words(turn, 7)]
    driver.scheduler.cancel(999)
    beside = driver.tokens[999]
    assert beside == cold(model, replace_id(neighbour, 999, max_tokens=len(beside)))[999]
    driver.at_rest()


@pytest.mark.parametrize("name", usually(KINDS.__contains__, PLAIN))
def test_choices_and_identical_prompts_in_flight_prefill_once(name: str) -> None:
    model = plain(name)
    prompt = words(5, 200)
    rows = [request(i, prompt, max_tokens=6, fork=1, choice=i) for i in range(3)]
    rows += [request(i, prompt, max_tokens=6) for i in range(3, 6)]
    rows += [request(i, [*prompt[:-20], *words(i, 24)], max_tokens=6) for i in range(6, 9)]
    want = cold(model, *rows)
    driver = Reusing(model, prefill_chunk=48)
    driver.submit(*rows)
    driver.run()
    assert driver.tokens == want
    assert [driver.cached[i] for i in range(6)] == [0] * 3 + [199] * 3
    assert all(driver.cached[i] >= 176 for i in range(6, 9))
    driver.at_rest()


def test_what_prompts_in_flight_share_is_computed_once(model: Model) -> None:
    """Also where all of them would fit into one pass."""
    system = words(8, 90)
    rows = [request(i, [*system, *words(i, 12)], max_tokens=6) for i in range(3)]
    rows += [request(i, rows[0].prompt_ids, max_tokens=6) for i in (3, 4)]
    rows += [request(i, words(20 + i, 100), max_tokens=6) for i in (5, 6)]
    want = cold(model, *rows)
    driver = Reusing(model, prefill_chunk=2048)
    driver.submit(*rows)
    driver.run()
    assert driver.tokens == want
    assert sorted(driver.cached[i] for i in range(5)) == [0, 90, 90, 101, 101]
    assert driver.cached[5] == driver.cached[6] == 0
    driver.at_rest()


@pytest.mark.parametrize("name", usually(KINDS.__contains__, PLAIN))
def test_rows_with_hits_are_prefilled_together(name: str) -> None:
    """One padded pass for hits of different length, with and without content before."""
    model = plain(name)
    stem = words(7, 40)
    hits = [40, 39, 33, 32, 31, 40, 30, 29]
    rows = [
        request(i, [*stem[:n], 300 + i, *words(i, 9 + i)], max_tokens=6) for i, n in enumerate(hits)
    ]
    rows += [request(i, words(50 + i, 30 + i), max_tokens=6) for i in (8, 9)]
    want = cold(model, *rows)
    driver = Reusing(model, prefill_chunk=512)
    driver.once(request(100, stem, max_tokens=1))
    driver.submit(*rows)
    driver.turn()
    groups = sorted(len(group.rows) for group in driver.groups)
    assert groups == ([10] if model.paddable else [1] * 10)
    driver.run()
    del driver.tokens[100]
    assert driver.tokens == want
    assert [driver.cached[i] for i in range(10)] == [*hits, 0, 0]
    driver.at_rest()


def test_a_newcomer_with_less_to_do_hands_its_blocks_to_the_one_before(model: Model) -> None:
    prompt = words(6, 300)
    rows = [request(1, [*prompt, *words(1, 90)]), request(2, [*prompt, 9, 8, 7])]
    driver = Reusing(model, prefill_chunk=32)
    driver.submit(rows[0])
    driver.turns(2)
    driver.submit(rows[1])
    driver.run()
    assert driver.tokens == cold(model, *rows)
    assert sum(driver.cached.values()) >= 300 - 2 * 32, driver.cached
    driver.at_rest()


@pytest.mark.parametrize("name", usually(KINDS.__contains__, PLAIN))
def test_tokens_are_the_same_whatever_is_evicted_cancelled_or_sent_back(name: str) -> None:
    model = plain(name)
    rng = random.Random(name)
    stems = [words(100 + i, n) for i, n in enumerate((20, 45, 90))]
    requests = {}
    for key in range(40):
        stem = rng.choice(stems)
        prompt = [*stem[: rng.randrange(1, len(stem) + 1)], *words(key, rng.randrange(0, 12))]
        requests[key] = request(key, prompt, max_tokens=rng.randrange(1, 20))
    want = cold(model, *requests.values())
    per_token = sum(layer.per_token for layer in model.memory.layers)
    driver = Reusing(model, limit=120 * per_token, prefill_chunk=32, max_rows=6)
    gone = set()
    for item in requests.values():
        driver.submit(item)
        driver.turns(rng.randrange(4))
        live = [k for k in driver.tokens if k not in driver.reasons and k not in gone]
        if live and rng.random() < 0.3:
            gone.add(key := rng.choice(live))
            driver.scheduler.cancel(key)
        if rng.random() < 0.2:
            driver.reuse.tree.resize(rng.randrange(120) * per_token)
        if rng.random() < 0.2:
            waiting = set(driver.scheduler._waiting)
            rows = [row for row in driver.scheduler._rows.values() if row not in waiting]
            driver.scheduler._requeue(rows[: rng.randrange(3)])
    driver.run()
    for key in requests:
        got = driver.tokens[key]
        assert got == (want[key][: len(got)] if key in gone else want[key])
    assert sum(map(bool, driver.cached.values())) > 8, "too few hits to prove anything"
    assert driver.reuse.tree.nbytes <= 120 * per_token
    driver.at_rest()


def test_after_a_fault_nothing_is_taken_from_the_tree(model: Model) -> None:
    prompts = {key: [*words(3, 40), *words(key, 9)] for key in range(4)}
    requests = {key: request(key, ids, max_tokens=12) for key, ids in prompts.items()}
    want = cold(model, *requests.values())
    once = want[2][3]
    driver = Reusing(replace(model, module=Faulty(model.module, once, times=1)))
    driver.submit(*requests.values())
    while driver.executor._model.module.times:  # type: ignore[attr-defined]
        driver.turn()
    driver.run()
    assert driver.tokens == want and not driver.failed
    driver.at_rest()
    poison = Faulty(model.module, 400)
    driver = Reusing(replace(model, module=poison))
    driver.submit(requests[0])
    driver.turns(4)
    assert driver.reuse.tree.nbytes
    driver.submit(request(9, [*prompts[0][:30], 400, 5]))
    before = driver.reuse.tree
    while 9 not in driver.failed and driver.reuse.tree is before:
        driver.turn()
    assert driver.reuse.tree is not before and not before.pinned
    driver.run()
    assert driver.tokens[0] == want[0]
    driver.at_rest()


def test_a_fault_in_a_pass_of_several_prompts_belongs_to_one(model: Model) -> None:
    requests = {key: request(key, words(key, 20), max_tokens=4) for key in range(3)}
    want = cold(model, *requests.values())
    driver = Reusing(replace(model, module=Faulty(model.module, 400)))
    driver.submit(*requests.values(), request(9, [*words(9, 9), 400, *words(9, 9)]))
    driver.run()
    assert driver.failed.keys() == {9}
    assert {key: driver.tokens[key] for key in requests} == want
    driver.at_rest()


def test_prompts_that_leave_before_their_turn_hold_nothing(model: Model) -> None:
    driver = Reusing(model, prefill_chunk=16)
    stem = words(1, 80)
    driver.once(request(1, stem, max_tokens=1))
    driver.submit(*(request(key, [*stem, *words(key, 30)]) for key in range(2, 6)))
    driver.turn()
    waiting = [prompt for prompt in driver.executor.prompts if prompt.match is not None]
    assert len(waiting) >= 2 and driver.reuse.tree.pinned
    driver.scheduler._requeue(waiting[0].rows)
    driver.scheduler.cancel(waiting[1].rows[0].request.id)
    assert waiting[0].match is waiting[1].match is None
    for key in range(2, 6):
        driver.scheduler.cancel(key)
    driver.at_rest()


def test_rows_that_fail_are_not_stored(model: Model) -> None:
    driver = Reusing(model)
    banned = request(1, words(1, 5), logit_bias=tuple((i, -100.0) for i in range(512)))
    driver.once(banned)
    assert driver.failed[1].code == "non_finite_logits"
    assert driver.once(request(2, words(1, 5))) == cold(model, request(2, words(1, 5)))[2]
    driver.at_rest()


def test_rows_with_grammars_begin_alike(model: Model) -> None:
    grammar = Grammar(source="start: /[a-f]{3,40}/", param="response_format")
    stops = list(model.info.eos_token_ids)
    prompt = words(4, 50)
    rows = [
        request(i, [*prompt, i + 3], grammar=grammar, stop_ids=stops, seed=i, temperature=1.0)
        for i in range(3)
    ]
    want = cold(model, *rows)
    driver = Reusing(model)
    assert {row.id: driver.once(row) for row in rows} == want
    assert [driver.cached[row.id] for row in rows] == [0, 50, 50]


def test_resumed_rows_find_their_own_tokens_and_count_the_prompt_only(model: Model) -> None:
    item = request(1, words(8, 30), max_tokens=20)
    whole = cold(model, item)[1]
    driver = Reusing(model)
    assert driver.once(item) == whole
    rest = driver.once(replace_id(item, 2, emitted_ids=whole[:9]))
    assert whole[:9] + rest == whole
    assert driver.cached[2] == 30


def test_short_hits_are_not_worth_a_copy_unless_they_are_all(model: Model) -> None:
    driver = Reusing(model, least=16)
    driver.once(request(1, words(1, 10)))
    driver.once(request(2, [*words(1, 10), *words(2, 20)]))
    driver.once(request(3, words(1, 10)))
    assert (driver.cached[2], driver.cached[3]) == (0, 9)


def test_the_tree_yields_memory_to_rows_and_takes_what_they_leave(model: Model) -> None:
    per_token = sum(layer.per_token for layer in model.memory.layers)
    limit = model.memory.total([[1024, 1024]], 64)
    tight = replace(model, memory=replace(model.memory, limit=limit))
    driver = Reusing(tight)
    for key in range(12):
        driver.once(request(key, words(key, 300), max_tokens=4))
    full = driver.reuse.tree.nbytes
    assert 1500 * per_token < full <= limit - model.memory.weights
    driver.submit(*(request(key, words(key, 900), max_tokens=8) for key in (20, 21)))
    least = full
    while driver.scheduler.busy:
        driver.turn()
        least = min(least, driver.reuse.tree.nbytes)
    assert least < full / 2, "rows did not get the tree's memory"
    assert all(frame.waiting == 0 for frame in driver.frames[-5:])
    assert len(driver.tokens[20]) == len(driver.tokens[21]) == 8


def test_peak_memory_stays_within_the_limit() -> None:
    wide = load(tiny_model_dir(WIDE))
    lengths = [1200, 60, 60, 400]
    limit = wide.memory.total([lengths], 256)
    base = at_rest_memory() - wide.memory.weights
    tight = replace(wide, memory=replace(wide.memory, limit=limit))
    driver = Reusing(tight, block=256, least=16, prefill_chunk=256)
    mx.reset_peak_memory()
    rng = random.Random(1)
    for key in range(14):
        shared, own = rng.choice(lengths) * 2 // 3, rng.choice(lengths) // 3
        prompt = [*words(key % 2, shared), *words(key, own)]
        driver.submit(request(key, prompt, max_tokens=rng.randrange(1, 60)))
        driver.turns(rng.randrange(8))
    driver.run()
    assert sum(map(bool, driver.cached.values())) > 5 and not driver.failed
    assert mx.get_peak_memory() - base <= limit


def test_namespaces_share_nothing(model: Model) -> None:
    driver = Reusing(model)
    prompt = words(1, 40)
    for key, namespace in enumerate(["a", "b", "a", ""]):
        driver.once(request(key, prompt, namespace=namespace))
    assert [driver.cached[key] for key in range(4)] == [0, 0, 39, 0]


def test_stored_blocks_are_copies(model: Model) -> None:
    """A view would keep the whole cache of its row alive."""
    driver = Reusing(model, block=256)
    base = at_rest_memory()
    driver.once(request(1, words(1, 1030), max_tokens=600))
    mx.synchronize()
    grown = mx.get_active_memory() - base
    assert driver.reuse.tree.nbytes <= grown < 1.1 * driver.reuse.tree.nbytes + 2**18
