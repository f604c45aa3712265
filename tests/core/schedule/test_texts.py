"""Which texts share a pass, and whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from budmlx.core.batch.plan import Embed, Result
from budmlx.core.batch.states import DiskRead
from budmlx.core.schedule.step_report import StepReport
from budmlx.core.schedule.texts import TextQueue
from budmlx.protocol import EmbedRequest, MemoryUse, Vector

LONGEST = 10_000


def queue(*, whole: bool = False) -> TextQueue:
    return TextQueue(StepReport(), whole, 8)


def texts(request_id: int, lengths: Sequence[int], owner: str = "") -> EmbedRequest:
    return EmbedRequest(id=request_id, texts=[[1] * n for n in lengths], owner=owner)


def result(*vectors: Vector, faults: Sequence[list[int]] = (), condemned: bool = False) -> Result:
    return Result(
        tokens=[], failed=[], faults=list(faults), prompts=[], groups=[], seconds=0.0,
        disk=DiskRead(), memory=MemoryUse(), vectors=list(vectors), condemned=condemned,
    )  # fmt: skip


def step(waiting: TextQueue, budget: int) -> list[Embed]:
    """The passes of one step, each of which succeeds; vectors are not told."""
    passes = []
    for plan in waiting.plans(budget, lambda tokens: True):
        assert plan.embed is not None
        passes.append(plan.embed)
        waiting.take(result())
    return passes


def test_texts_of_like_length_share_a_pass() -> None:
    waiting = queue()
    waiting.add(texts(1, [8] * 15 + [256]), LONGEST)
    first, second = step(waiting, 512)
    assert first == Embed([(1, 15)])
    assert len(second.texts) == 15


def test_a_long_text_is_computed_in_parts_unless_it_sees_what_follows() -> None:
    waiting = queue()
    waiting.add(texts(1, [300]), LONGEST)
    assert [step(waiting, 128), step(waiting, 128), step(waiting, 128)] == [
        [Embed([(1, 0)], 128)],
        [Embed([(1, 0)], 128)],
        [Embed([(1, 0)], 44)],
    ]
    whole = queue(whole=True)
    whole.add(texts(1, [300]), LONGEST)
    assert step(whole, 128) == [Embed([(1, 0)])]


def test_short_texts_of_others_go_on_beside_a_long_one() -> None:
    waiting = queue()
    waiting.add(texts(1, [1000], "a"), LONGEST)
    waiting.add(texts(2, [10, 2000], "b"), LONGEST)
    assert step(waiting, 100) == [Embed([(1, 0)], 100)]
    assert step(waiting, 100) == [Embed([(2, 0)]), Embed([(1, 0)], 90)]


def test_owners_take_turns() -> None:
    waiting = queue()
    waiting.add(texts(1, [50] * 40, "flood"), LONGEST)
    waiting.add(texts(2, [100], "other"), LONGEST)
    assert (2, 0) in [*step(waiting, 100), *step(waiting, 100)][1].texts


def test_what_memory_does_not_hold_waits() -> None:
    waiting = queue()
    waiting.add(texts(1, [50]), LONGEST)
    assert not list(waiting.plans(100, lambda tokens: False))
    assert step(waiting, 100) == [Embed([(1, 0)])]


def test_the_requests_of_a_pass_that_raised_go_on_alone_then_fail() -> None:
    waiting = queue()
    waiting.add(texts(1, [9, 9]), LONGEST)
    waiting.add(texts(2, [9]), LONGEST)
    [plan] = waiting.plans(100, lambda tokens: True)
    assert plan.embed is not None and len(plan.embed.texts) == 3
    assert waiting.take(result(faults=[[1, 2]])) == []
    [first, *_] = waiting.plans(18, lambda tokens: True)
    assert first.embed is not None and {i for i, _ in first.embed.texts} == {1}
    assert waiting.take(result(faults=[[1]])) == [1]
    assert len(waiting.requests) == 1


def test_after_a_fault_of_the_device_a_long_text_begins_again() -> None:
    waiting = queue()
    waiting.add(texts(1, [300]), LONGEST)
    step(waiting, 128)
    assert waiting.lengths == [[300]]
    assert waiting.take(result(condemned=True)) == []
    assert waiting.lengths == []
    assert step(waiting, 128) == [Embed([(1, 0)], 128)]


def test_a_request_is_done_with_its_last_vector_or_when_it_is_removed() -> None:
    waiting = queue()
    waiting.add(texts(1, [9]), LONGEST)
    waiting.add(texts(2, [9]), LONGEST)
    assert waiting.take(result(Vector(1, 0, b"", last=True))) == [1]
    assert waiting.remove(2) == [2]
    assert waiting.remove(2) == []
    assert not waiting.requests


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 400), min_size=1, max_size=9)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 300),
    st.booleans(),
)
def test_every_text_is_computed_once_and_whole(
    requests: list[tuple[str, list[int]]], budget: int, whole: bool
) -> None:
    waiting = queue(whole=whole)
    left = {}
    for number, (owner, lengths) in enumerate(requests):
        waiting.add(texts(number, lengths, owner), LONGEST)
        left |= {(number, text): length for text, length in enumerate(lengths)}
    for _ in range(5000):
        if not left:
            break
        passes = step(waiting, budget)
        assert passes
        for each in passes:
            longest = max(left[text] for text in each.texts)
            assert whole or longest * len(each.texts) <= max(budget, 64) or each.tokens
            for text in each.texts:
                left[text] -= each.tokens or left[text]
                if not left[text]:
                    del left[text]
    assert not left
