"""Prompts that are given up while they are computed: what was computed is not lost."""

from __future__ import annotations

import pytest

from budmlx.core.reuse.blocks import open_reuse
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

CHUNK = 64
PROMPT = [3 + (7 * place * place) % 400 for place in range(900)]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_a_repeat_goes_on_where_the_prompt_was_given_up(name: str, steps: int) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name]), prefill_chunk=CHUNK)
    whole = Driver(model, prefill_chunk=CHUNK)
    whole.submit(request(1, PROMPT))
    whole.run()
    driver = Driver(model, prefill_chunk=CHUNK, reuse=open_reuse(model, 2**28))
    driver.submit(request(1, PROMPT))
    driver.turns(steps)
    (prompt,) = driver.prompts
    computed = prompt.computed
    assert computed >= CHUNK * steps
    driver.scheduler.cancel(1)
    driver.submit(request(2, PROMPT))
    driver.run()
    (cached,) = [t.cached for frame in driver.frames for t in frame.tokens if t.cached]
    assert cached == computed
    assert driver.tokens[2] == whole.tokens[1]


def test_frames_tell_how_far_long_prompts_are() -> None:
    model = load(prefill_chunk=CHUNK)
    driver = Driver(model, prefill_chunk=CHUNK, reuse=open_reuse(model, 2**28))
    driver.submit(request(1, PROMPT), request(2, PROMPT[:20]))
    driver.run()
    told = [left for frame in driver.frames for row, left in frame.prefilling if row == 1]
    assert len(told) > 900 // CHUNK - 2 and told[-1] <= CHUNK
    assert told == sorted(set(told), reverse=True)
    # One that takes a step is not worth a word, nor is a step without prompts.
    assert not any(row == 2 for frame in driver.frames for row, _ in frame.prefilling)
    assert not driver.frames[-1].prefilling
