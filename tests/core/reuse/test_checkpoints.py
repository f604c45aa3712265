"""States of caches that cannot be cut: rows that go on from them give the same tokens."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, KVCache

from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse, open_reuse
from budmlx.core.reuse.checkpoints import Checkpoint, CheckpointReuse, Checkpoints
from budmlx.protocol import GenerateRequest, StepFrame
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, KINDS
from tests.core.driver import Driver, load, request
from tests.core.reuse.test_blocks import at_rest_memory, cold, plain, words
from tests.core.schedule.test_scheduler import Faulty
from tests.models import tiny_model_dir

NAMES = ["gemma3_text", "ministral3", "gpt_oss", "mamba", "falcon_h1", "jamba"]


class Resuming(Driver):
    """A driver that notes what each row reused."""

    def __init__(self, model: Model, *, limit: int = 2**30, prefill_chunk: int = 64):
        self.reuse = CheckpointReuse(limit)
        super().__init__(model, prefill_chunk=prefill_chunk, reuse=self.reuse)
        self.cached: dict[int, int] = {}

    def turn(self) -> StepFrame:
        frame = super().turn()
        for token in frame.tokens:
            self.cached[token.id] = self.cached.get(token.id, 0) + token.cached
        return frame

    def once(self, item: GenerateRequest) -> list[int]:
        self.submit(item)
        self.run()
        return self.tokens[item.id]


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_device_with_few_buffers_bounds_what_is_stored(name: str) -> None:
    model = plain(name)
    few = replace(model, policy=replace(model.policy, stored_arrays=3.9 * model.memory.arrays))
    driver = Driver(few, reuse=open_reuse(few, 0.5))
    for number in range(6):
        driver.submit(request(number, words(number, 300), max_tokens=2))
        driver.run()
    hits = [number for number in range(6) if driver.executor.reuse.find("", words(number, 299), 0)]
    assert 1 <= len(hits) <= 3 and hits[-1] == 5


def test_the_cache_decides_how_prompts_are_reused() -> None:
    assert isinstance(open_reuse(plain("llama"), 0.5), BlockReuse)
    for name in NAMES:
        assert isinstance(open_reuse(plain(name), 0.5), CheckpointReuse)


@pytest.mark.parametrize("name", usually(KINDS.__contains__, NAMES))
def test_repeats_and_common_beginnings(name: str) -> None:
    model = plain(name)
    rules, first, second = words(1, 90), words(2, 20), words(3, 30)
    asked = [
        request(0, [*rules, *first], checkpoints=[90], max_tokens=8),
        request(1, [*rules, *first], checkpoints=[90], max_tokens=8),
        request(2, [*rules, *second], checkpoints=[90], max_tokens=8),
        request(3, [*rules, *second], max_tokens=8, temperature=1.0, seed=3),
        request(4, words(4, 50), max_tokens=8),
    ]
    expected = cold(model, *asked)
    driver = Resuming(model)
    for item in asked:
        assert driver.once(item) == expected[item.id], item.id
    assert [driver.cached[n] for n in range(5)] == [0, 109, 90, 119, 0]
    # The reply is too short to be worth a state: the next turn goes on where the prompt ended.
    turn = [*rules, *first, *expected[0], *words(5, 12)]
    again = request(9, turn, checkpoints=[90], max_tokens=8)
    assert driver.once(again) == cold(model, again)[9]
    assert driver.cached[9] == 109


@pytest.mark.parametrize("name", ["gemma3_text", "mamba"])
def test_a_conversation_seen_first_is_kept_at_the_end_of_every_turn(name: str) -> None:
    model = plain(name)
    turns = [words(turn, 70 + turn) for turn in range(6)]
    ids = [token for turn in turns for token in turn]
    ends = [sum(map(len, turns[: number + 1])) for number in range(5)]
    driver = Resuming(model)
    driver.once(request(0, ids, checkpoints=ends, max_tokens=2))
    for number, end in enumerate(ends, 1):
        edited = request(number, [*ids[:end], *words(50 + number, 20)], max_tokens=4)
        assert driver.once(edited) == cold(model, edited)[number]
        assert driver.cached[number] == end


def test_the_ends_of_turns_leave_room_for_other_conversations() -> None:
    wanted = [10, *range(100, 1000, 100), 950]
    none, some, all_ = (CheckpointReuse(limit) for limit in (0, 4 * 1600, 2**30))
    assert all_.places(wanted, lambda tokens: tokens) == [10, *range(100, 900, 100), 950]
    assert some.places(wanted, lambda tokens: tokens) == [10, 700, 800, 950]
    assert none.places(wanted, lambda tokens: tokens) == [10, 950]
    assert CheckpointReuse(2**30, 8).places(wanted, lambda tokens: 1) == [10, 700, 800, 950]
    for few in ([], [10], [10, 20]):
        assert all_.places(few, lambda tokens: 1) == few


@pytest.mark.parametrize(("chunk", "stretch"), [(64, 64), (512, 64), (2048, 256)])
def test_the_ends_of_turns_divide_a_chunk_into_a_few_passes(chunk: int, stretch: int) -> None:
    model = load(tiny_model_dir(ARCHITECTURES["gemma3_text"]), prefill_chunk=chunk)
    ends = list(range(10, 4010, 32))
    places = open_reuse(model, 0.5).places(ends, lambda tokens: 1)
    assert min(b - a for a, b in itertools.pairwise(places)) == stretch
    assert places[0] == ends[0] and places[-1] == ends[-1]


def test_the_ends_of_turns_do_not_slow_down_what_a_step_computes() -> None:
    model = plain("gemma3_text")
    driver = Resuming(model, prefill_chunk=512)
    ends = list(range(70, 900, 70))
    driver.submit(request(0, words(1, 1000), checkpoints=ends, max_tokens=2))
    driver.turn()
    assert driver.prompts[0].computed > 512 * 3 // 4


@pytest.mark.parametrize("name", ["gemma3_text", "falcon_h1"])
def test_many_at_once(name: str) -> None:
    model = plain(name)
    chance = random.Random(0)
    rules = [words(seed, 70) for seed in range(3)]
    asked = [
        request(
            n,
            [*rules[n % 3], *words(10 + n, chance.randrange(1, 40))],
            checkpoints=[70] if n % 2 else [],
            max_tokens=chance.randrange(1, 10),
            namespace="ab"[n % 2],
        )
        for n in range(14)
    ]
    expected = cold(model, *asked)
    driver = Resuming(model, prefill_chunk=33)
    for start in (0, 4, 9):
        driver.submit(*asked[start : {0: 4, 4: 9, 9: 14}[start]])
        for _ in range(5):
            driver.turn()
    driver.run()
    assert driver.tokens == expected
    assert sum(driver.cached.values()) > 0


def test_choices_fork_from_a_state() -> None:
    model = plain("gemma3_text")
    ids = words(1, 60)
    driver = Resuming(model)
    driver.once(request(0, ids, max_tokens=2))
    forks = [
        request(n, ids, fork=7, choice=n, temperature=1.0, seed=1, max_tokens=6) for n in (1, 2, 3)
    ]
    driver.submit(*forks)
    driver.run()
    alone = cold(
        model,
        *(request(n, ids, choice=n, temperature=1.0, seed=1, max_tokens=6) for n in (1, 2, 3)),
    )
    assert {n: driver.tokens[n] for n in (1, 2, 3)} == alone
    assert [driver.cached[n] for n in (1, 2, 3)] == [59] * 3


def test_states_are_never_changed() -> None:
    driver = Resuming(plain("gemma3_text"))
    ids = words(1, 60)
    driver.once(request(0, ids, max_tokens=30))
    found = driver.reuse.find("", ids[:-1], 0)
    assert found is not None
    before = [mx.array(array) for array in found.arrays]
    driver.once(request(1, ids, max_tokens=30))
    assert all(mx.array_equal(a, b) for a, b in zip(before, found.arrays, strict=True))


def test_a_fault_forgets_them() -> None:
    model = plain("gemma3_text")
    driver = Resuming(replace(model, module=Faulty(model.module, poison=400, times=1)))
    ids = words(1, 60)
    driver.once(request(0, ids, max_tokens=3))
    driver.submit(request(1, [*words(2, 20), 400, *words(3, 20)], max_tokens=3))
    driver.run()
    assert driver.reuse.find("", ids[:-1], 0) is None
    assert driver.once(request(2, ids, max_tokens=3)) == driver.tokens[0]


def test_the_limit_is_kept() -> None:
    model = plain("gemma3_text")
    one = Resuming(model)
    one.once(request(0, words(0, 40), max_tokens=2))
    size = one.reuse._kept.nbytes
    assert size > 0
    driver = Resuming(model, limit=3 * size)
    for n in range(6):
        driver.once(request(n, words(n, 40), max_tokens=2))
        assert driver.reuse._kept.nbytes <= 3 * size
    assert driver.once(request(6, words(5, 40), max_tokens=2)) == driver.tokens[5]
    assert driver.once(request(7, words(0, 40), max_tokens=2)) == driver.tokens[0]
    assert (driver.cached[6], driver.cached[7]) == (39, 0)


def test_ends_of_replies_displace_each_other_and_not_the_instructions() -> None:
    model = plain("gemma3_text")
    rules = words(0, 90)
    asked = [
        request(n, [*rules, *words(n, 20)], checkpoints=[90], max_tokens=20) for n in range(1, 13)
    ]
    driver = Resuming(model)
    driver.once(asked[0])
    place, prompt, reply = (state.nbytes for state in driver.reuse._kept._kept.entries.values())
    driver = Resuming(model, limit=place + 3 * (prompt + reply))
    for item in asked:
        driver.once(item)
        assert driver.reuse._kept.nbytes <= driver.reuse._kept.limit
    assert [driver.cached[item.id] for item in asked] == [0] + [90] * 11
    ends = [
        driver.reuse._kept.covered("", [*item.prompt_ids, *driver.tokens[item.id]])
        for item in asked
    ]
    assert ends == [90] * 9 + [129] * 3


def grown(tokens: int) -> KVCache:
    entry = KVCache()
    entry.update_and_fetch(*[mx.random.normal((1, 1, tokens, 4)) for _ in "kv"])
    return entry


def test_the_state_in_which_a_row_leaves() -> None:
    ids, entry = words(1, 40), grown(39)
    reuse = CheckpointReuse(2**20)
    reuse.keep("", ids, 41, lambda: [grown(41)])  # ran ahead
    reuse.keep("", ids[:15], 15, lambda: [grown(15)])  # too short
    assert reuse._kept.nbytes == 0
    reuse.keep("", ids, 39, lambda: [entry])
    before = [mx.array(array) for array in (entry.keys, entry.values)]
    entry.update_and_fetch(*[mx.ones((1, 1, 1, 4)) for _ in "kv"])
    found = reuse.find("", ids, 0)
    assert found is not None and found.length == 39
    assert all(mx.array_equal(a, b) for a, b in zip(before, found.arrays, strict=True))


@pytest.mark.parametrize("limit", [0, 100])
def test_without_room_nothing_is_kept(limit: int) -> None:
    reuse = CheckpointReuse(limit)
    reuse.keep("", words(1, 40), 40, lambda: [grown(40)])
    assert reuse.find("", words(1, 40), 0) is None and reuse.version == 0


def test_a_state_out_of_a_batch_holds_its_own_memory_only() -> None:
    base = at_rest_memory()
    batch = ArraysCache(1)
    batch[0] = mx.zeros((16, 2**18))
    mx.eval(batch[0])
    taken = Checkpoint.of("", [1], [batch.extract(3)])
    mx.eval(taken.arrays)
    del batch
    assert taken.nbytes == 2**20 and at_rest_memory() - base < 2 * taken.nbytes


def state(ids: list[int], tokens: int) -> Checkpoint:
    entry = KVCache()
    entry.state = (mx.zeros((1, 1, tokens, 4)), mx.zeros((1, 1, tokens, 4)), tokens)
    return Checkpoint.of("", ids, [entry])


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(IDS, st.integers(1, 4)), max_size=30),
    st.integers(0, 400),
    st.integers(1, 4) | st.just(math.inf),
)
def test_it_finds_what_a_dictionary_finds(
    steps: list[tuple[list[int], int]], limit: int, count: float
) -> None:
    kept = Checkpoints(limit, count)
    model: dict[tuple[int, ...], int] = {}  # ids -> bytes, least recently used first
    for ids, tokens in steps:
        known = [key for key in model if list(key) == ids[: len(key)]]
        best = max(known, key=len, default=None)
        found = kept.find("", ids, 0)
        assert (found.length if found else None) == (len(best) if best else None)
        assert kept.find("other", ids, 0) is None
        if best is not None:
            model[best] = model.pop(best)
        size = state(ids, tokens).nbytes
        kept.store(state(ids, tokens))
        key = tuple(ids)
        if key not in model and size <= limit:
            while model and (sum(model.values()) + size > limit or len(model) >= count):
                del model[next(iter(model))]
            model[key] = size
        assert kept.nbytes == sum(model.values()) <= limit
