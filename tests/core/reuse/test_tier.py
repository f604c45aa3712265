"""KV that comes from disk: same tokens, exact counts, nobody else's, restarts or not."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import open_reuse
from budmlx.core.reuse.disk.identity import model_digest
from budmlx.core.schedule.disk_read import DiskReadBudget
from budmlx.protocol import KVStoreSettings
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.core.reuse.test_blocks import BLOCK, PLAIN, Reusing, cold, plain, words
from tests.core.reuse.test_contamination import FIRST_MARKER, Witness
from tests.core.schedule.test_scheduler import Faulty
from tests.models import tiny_model_dir

SECONDS = 20


@contextmanager
def life(model: Model, directory: Path, **options: Any) -> Iterator[Reusing]:
    """A core that ends in order."""
    store = KVStoreSettings(directory=str(directory), limit=2**30)
    driver = Reusing(model, kv_store=store, **options)
    yield driver
    driver.run()
    driver.at_rest()
    driver.reuse.close(SECONDS)


@pytest.fixture(scope="module")
def model() -> Model:
    return plain("llama")


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.safetensors"))


def quantized() -> Model:
    path = tiny_model_dir({**ARCHITECTURES["llama"], "head_dim": 32}, scale=4.0, seed=5)
    return load(path, kv_bits=8)


def half(dtype: mx.Dtype) -> Model:
    model = load(tiny_model_dir(scale=4.0, seed=6))
    model.module.set_dtype(dtype)
    return model


MODELS = {
    **{name: lambda name=name: plain(name) for name in PLAIN},
    "bfloat16": lambda: half(mx.bfloat16),
    "float16": lambda: half(mx.float16),
    "quantized": quantized,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_conversation_goes_on_after_each_restart(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    conversation = words(2, 3 * BLOCK + 3)
    stored = 0
    for turn in range(4):
        item = request(turn, conversation, max_tokens=BLOCK)
        with life(model, tmp_path) as driver:
            got = driver.once(item)
            assert got == cold(model, item)[turn]
            assert driver.cached[turn] == stored
            assert driver.reuse.tier is not None
            assert not driver.reuse.tier.counters.dropped
        # The token that ends the reply is not computed.
        stored = len(conversation) + BLOCK - 1
        conversation = [*conversation, *got, *words(turn, 5)]


def test_hits_end_with_a_whole_block_or_where_a_prompt_or_reply_did(
    model: Model, tmp_path: Path
) -> None:
    prompt = words(1, 4 * BLOCK + 5)
    with life(model, tmp_path) as driver:
        driver.once(request(1, prompt, max_tokens=1))
    asked = {1: prompt, 2: prompt[: 2 * BLOCK + 3], 3: [*prompt, 7], 4: [3, *prompt]}
    for key, ids in asked.items():
        with life(model, tmp_path) as driver:
            item = request(key, ids, max_tokens=3)
            assert driver.once(item) == cold(model, item)[key]
            want = {1: 4 * BLOCK + 4, 2: 2 * BLOCK, 3: 4 * BLOCK + 5, 4: 0}[key]
            assert driver.cached[key] == want


def test_what_was_evicted_comes_back_from_disk(model: Model, tmp_path: Path) -> None:
    per_token = sum(layer.per_token for layer in model.memory.layers)
    prompts = {key: words(key, 5 * BLOCK) for key in range(8)}
    with life(model, tmp_path, limit=9 * BLOCK * per_token) as driver:
        for key, ids in prompts.items():
            driver.once(request(key, ids, max_tokens=1))
        driver.run()
        drain(driver)
        for key, ids in prompts.items():
            item = request(100 + key, [*ids, 9], max_tokens=3)
            assert driver.once(item) == cold(model, item)[100 + key]
            assert driver.cached[100 + key] == 5 * BLOCK - (driver.cached[100 + key] % BLOCK != 0)
            drain(driver)


def drain(driver: Reusing) -> None:
    """Wait for the writer."""
    assert driver.reuse.tier is not None
    while driver.reuse.tier._store._queued:
        time.sleep(0.001)


def test_blocks_that_leave_while_rows_run_are_saved(model: Model, tmp_path: Path) -> None:
    per_token = sum(layer.per_token for layer in model.memory.layers)
    with life(model, tmp_path, limit=9 * BLOCK * per_token) as driver:
        driver.submit(request(99, words(99, 4), max_tokens=2000))
        driver.turns(2)
        for key in range(4):
            driver.submit(request(key, words(key, 5 * BLOCK), max_tokens=1))
            while key not in driver.reasons:
                driver.turn()
        drain(driver)
        assert len(files(tmp_path)) >= 2 * 5
        driver.scheduler.cancel(99)


def test_namespaces_share_nothing_on_disk(model: Model, tmp_path: Path) -> None:
    """LIMITS 116."""
    hits = []
    for key, namespace in enumerate(["a", "b", "", "a"]):
        with life(model, tmp_path) as driver:
            driver.once(request(key, words(1, 40), namespace=namespace))
            hits.append(driver.cached[key])
    assert hits == [0, 0, 0, 39]


def test_a_reply_that_the_next_prompt_leaves_out_costs_no_block(
    model: Model, tmp_path: Path
) -> None:
    """Reasoning is left out of the history: the next prompt parts where the last one ended."""
    conversation = words(4, 2 * BLOCK + 3)
    stored = 0
    for turn in range(3):
        item = request(turn, conversation, max_tokens=BLOCK + 1)
        with life(model, tmp_path) as driver:
            assert driver.once(item) == cold(model, item)[turn]
            # The last token of a prompt is computed by the first step of its reply.
            assert stored <= driver.cached[turn] <= stored + 1
        stored = len(conversation) - 1
        conversation = [*conversation, *words(50 + turn, 5)]


def test_any_order_of_requests_and_restarts(model: Model, tmp_path: Path) -> None:
    rng = random.Random(3)
    stems = [words(100 + i, n) for i, n in enumerate((20, 45, 90))]
    per_token = sum(layer.per_token for layer in model.memory.layers)
    hits = 0
    for number in range(6):
        with life(model, tmp_path, limit=120 * per_token, prefill_chunk=32, max_rows=6) as driver:
            requests = {}
            for key in range(8):
                stem = rng.choice(stems)
                length = rng.randrange(1, len(stem) + 1)
                prompt = [*stem[:length], *words(rng.randrange(9), rng.randrange(12))]
                requests[key] = request(key, prompt, max_tokens=rng.randrange(1, 20))
                driver.submit(requests[key])
                driver.turns(rng.randrange(4))
            driver.run()
            assert driver.tokens == cold(model, *requests.values())
            assert driver.reuse.tier is not None
            hits += driver.reuse.tier.counters.hits
        for path in rng.sample(files(tmp_path), number):
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
    assert hits > 30


def test_no_row_sees_what_another_wrote_before_a_restart(tmp_path: Path) -> None:
    """LIMITS L4."""
    rng = random.Random(5)
    model = load()
    witness = Witness(list(model.module.layers))
    model = replace(model, module=witness, new_cache=witness.make_cache)
    stems = [[rng.randrange(3, FIRST_MARKER) for _ in range(n)] for n in (15, 16, 40, 90)]
    prompts: dict[int, tuple[str, list[int]]] = {}
    hits = 0
    for _ in range(6):
        with life(model, tmp_path, limit=40_000, block=16, max_rows=24) as driver:
            markers = {}
            for key in range(50):
                marker = rng.randrange(FIRST_MARKER, FIRST_MARKER + 40)
                space, prompt = prompts.get(marker, (rng.choice("abc"), list(rng.choice(stems))))
                prompt = [*prompt[:200], marker, *words(key, key % 9)]
                markers[key] = marker
                prompts[marker] = (space, prompt)
                driver.submit(request(key, prompt, max_tokens=5, namespace=space))
                driver.turns(rng.randrange(3))
            driver.run()
            assert all(set(driver.tokens[key]) == {marker} for key, marker in markers.items())
            assert driver.reuse.tier is not None
            hits += driver.reuse.tier.counters.hits
    assert hits > 100


def test_others_go_on_while_a_prompt_is_read(model: Model, tmp_path: Path) -> None:
    prompt = words(1, 20 * BLOCK)
    with life(model, tmp_path) as driver:
        driver.once(request(1, prompt, max_tokens=1))
    items = [request(2, words(2, 9), max_tokens=40), request(3, [*prompt, 5], max_tokens=5)]
    one_block_each_step = DiskReadBudget(short_read=0.0)
    with life(model, tmp_path, disk=one_block_each_step) as driver:
        driver.submit(items[0])
        driver.turns(3)
        driver.submit(items[1])
        while not driver.tokens[3]:
            before = len(driver.tokens[2])
            driver.turn()
            assert len(driver.tokens[2]) > before
        assert len(driver.tokens[2]) >= 20
        driver.run()
        assert driver.tokens == cold(model, *items)
        assert driver.cached[3] >= 19 * BLOCK


def test_a_prompt_that_leaves_while_it_is_read_holds_nothing(model: Model, tmp_path: Path) -> None:
    with life(model, tmp_path) as driver:
        driver.once(request(1, words(1, 9 * BLOCK), max_tokens=1))
    with life(model, tmp_path, disk=DiskReadBudget(long_read=0.0)) as driver:
        driver.submit(request(2, words(1, 9 * BLOCK)))
        driver.turn()
        [prompt] = driver.executor.prompts
        assert prompt.restoring and prompt.match is not None
        driver.scheduler.cancel(2)
        driver.run()


def test_blocks_are_computed_if_that_is_faster(model: Model, tmp_path: Path) -> None:
    prompt = words(1, 10 * BLOCK)
    with life(model, tmp_path) as driver:
        driver.once(request(1, prompt, max_tokens=1))
    with life(model, tmp_path) as driver:
        tier = driver.reuse.tier
        assert tier is not None
        disk = driver.scheduler._disk
        disk._seconds, disk._tokens = 10.0, 1.0
        driver.scheduler._prefill_budget._per_token = 1e-9
        item = request(2, [*prompt, 3], max_tokens=4)
        assert driver.once(item) == cold(model, item)[2]
        assert (driver.cached[2], tier.counters.hits, tier.counters.slower) == (0, 0, 1)
        assert disk._seconds < 10.0, "it would never be tried again"
        driver.reuse.clear()
        driver.scheduler._prefill_budget._per_token = 1e9
        driver.once(request(3, [*prompt, 4], max_tokens=1))
        assert driver.cached[3] == 10 * BLOCK


def test_what_a_fault_left_in_doubt_is_not_written(model: Model, tmp_path: Path) -> None:
    item = request(1, words(3, 40), max_tokens=12)
    once = cold(model, item)[1][3]
    with life(replace(model, module=Faulty(model.module, once, times=1)), tmp_path) as driver:
        driver.submit(item)
        while driver.executor._model.module.times:  # type: ignore[attr-defined]
            driver.turn()
        assert driver.reuse.tier is not None and not driver.reuse.tier._unsaved
        driver.run()
        assert driver.tokens[1] == cold(model, item)[1]


def test_a_disk_that_refuses_changes_nothing(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LIMITS 113."""
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING), life(model, tmp_path / "file") as driver:
        for key in range(3):
            item = request(key, words(key, 50), max_tokens=4)
            assert driver.once(item) == cold(model, item)[key]
    assert len([each for each in caplog.records if "disk" in each.message]) == 1


def test_weights_that_changed_in_any_way_are_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for file in tiny_model_dir().iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    digests = [model_digest(path)]
    assert digests == [model_digest(path)]
    [shard] = path.glob("model*.safetensors")
    data = bytearray(shard.read_bytes())
    stamp = shard.stat()
    data[-100] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    digests.append(model_digest(path))
    shard.touch()
    digests.append(model_digest(path))
    config = path / "config.json"
    config.write_text(config.read_text() + " ")
    digests.append(model_digest(path))
    assert len(set(digests)) == 4


def test_without_a_tree_there_is_no_disk(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = KVStoreSettings(directory=str(tmp_path), limit=2**30)
    with caplog.at_level(logging.WARNING):
        for name, size in (("mamba", 0.5), ("llama", 0.0)):
            driver = Driver(plain(name), reuse=open_reuse(plain(name), size, store))
            driver.submit(request(1, words(1, 300), max_tokens=1))
            driver.run()
            assert not driver.executor.reuse.pending
    assert caplog.text.count("no KV is kept on disk") == 2 and not files(tmp_path)
