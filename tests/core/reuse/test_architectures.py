"""Every architecture gives the same tokens with reused state as without."""

from __future__ import annotations

from itertools import product

import pytest

from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.checkpoints import CheckpointReuse
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, KINDS
from tests.core.driver import Driver, request
from tests.core.reuse.test_blocks import cold, plain, replace_id, words
from tests.core.reuse.test_checkpoints import Resuming

# Sliding, recurrent, and both or either beside plain KV: in one layer or in different ones.
NO_CUTS = ["gemma3_text", "mamba", "falcon_h1", "recurrent_gemma", "jamba", "llama4"]


@pytest.mark.parametrize("name", usually(KINDS.__contains__, ARCHITECTURES))
def test_tokens_do_not_depend_on_what_is_reused(name: str) -> None:
    model = plain(name)
    rules, first, second = words(1, 70), words(2, 13), words(3, 21)
    asked = [
        request(0, [*rules, *first], checkpoints=[70], max_tokens=8),
        request(1, [*rules, *first], checkpoints=[70], max_tokens=8),
        request(2, [*rules, *second], checkpoints=[70], max_tokens=8),
        request(3, [*rules, *second], max_tokens=8, temperature=1.0, seed=3),
        request(4, [*rules[:40], *second], max_tokens=8),
    ]
    expected = cold(model, *asked)
    reuse: BlockReuse | CheckpointReuse = BlockReuse(model, 2**28, block=8, least=1)
    if model.info.needs_checkpoints:
        reuse = CheckpointReuse(2**28)
    driver = Driver(model, max_rows=8, reuse=reuse)
    cached = []
    for item in asked:
        driver.submit(item)
        driver.run()
        assert driver.tokens[item.id] == expected[item.id], item.id
        frames = (token for frame in driver.frames for token in frame.tokens)
        cached.append(sum(token.cached for token in frames if token.id == item.id))
        if item.id == 3:  # everything is evicted
            reuse.resize(0)
            reuse.resize(2**28)
    assert cached[:4] == [0, 82, 70, 90] and cached[4] == 0


@pytest.mark.parametrize(
    ("name", "company"),
    usually(
        {("gemma3_text", True), ("mamba", False)}.__contains__,
        product(NO_CUTS, (False, True)),
    ),
)
def test_the_next_turn_goes_on_where_the_reply_ended(name: str, company: bool) -> None:
    model = plain(name)
    driver = Resuming(model)
    # One is longer and one shorter than the conversation, so that both sides are padded.
    neighbours = [request(90, words(90, 150)), request(91, [7])] if company else []
    neighbours = [replace_id(item, item.id, max_tokens=400) for item in neighbours]
    driver.submit(*neighbours)
    driver.turns(4)
    conversation, expected = words(2, 19), 0
    for turn, way in enumerate(["length", "stop", "cancelled", "stop string", "length", "stop"]):
        item = request(turn, conversation, max_tokens=23, temperature=1.0, seed=turn)
        want = cold(model, item)[turn]
        if way == "stop":
            want = want[: max(want.index(token) for token in want[:-1]) + 1]
            item = replace_id(item, turn, stop_ids=[want[-1]])
        driver.submit(item)
        enough = 20 if way in ("cancelled", "stop string") else 99
        while turn not in driver.reasons and len(driver.tokens[turn]) < enough:
            driver.turn()
        driver.scheduler.cancel(turn)
        got = driver.tokens[turn]
        assert (got, driver.cached[turn]) == (want[: len(got)], expected), turn
        if way == "stop string":
            # It was found two tokens late: the state is no beginning of what follows.
            got, expected = got[:-2], len(conversation) - 1
        else:
            # Alone, the token that ends a reply by its length is never fed.
            unfed = way == "length" and not (company and model.info.batchable)
            expected = len(conversation) + len(got) - unfed
        conversation = [*conversation, *got, *words(turn, 2)]
    for item in neighbours:
        driver.scheduler.cancel(item.id)
        got = driver.tokens[item.id]
        assert got == cold(model, replace_id(item, item.id, max_tokens=len(got)))[item.id]
