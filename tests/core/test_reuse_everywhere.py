"""Every architecture gives the same tokens with reused state as without."""

from __future__ import annotations

import pytest

from budmlx.core.checkpoints import CheckpointReuse
from budmlx.core.reuse import Reuse
from budmlx.core.scheduler import Scheduler
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, request
from tests.core.test_prefix_reuse import cold, plain, words


@pytest.mark.parametrize("name", ARCHITECTURES)
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
    reuse: Reuse | CheckpointReuse = Reuse(model, 2**28, block=8, least=1)
    if model.info.needs_checkpoints:
        reuse = CheckpointReuse(2**28)
    driver = Driver(model)
    driver.scheduler = Scheduler(model, max_rows=8, prefill_chunk=64, reuse=reuse)
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
