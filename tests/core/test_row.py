"""Where a row is in its tokens, told by the row alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budmlx.core.row import Row
from tests.core.driver import request


def row(**changes: object) -> Row:
    return Row.of(request(1, [5, 6, 7], **changes))


def test_a_row_begins_after_what_a_former_core_delivered() -> None:
    resumed = row(emitted_ids=[8, 9])
    assert (resumed.position, resumed.produced, resumed.unread) == (2, 2, 0)
    assert resumed.fresh and resumed.generated() == [8, 9]
    assert resumed.history() == [5, 6, 7, 8] and resumed.held == 4


def test_what_is_drawn_is_unread_until_it_is_committed() -> None:
    each = row()
    each.advance()
    assert (each.position, each.unread, each.held) == (1, 1, 3)
    assert each.history() == [5, 6, 7], "the token that is fed next has not been read"
    each.advance()
    assert each.commit([8]) is None
    assert (each.position, each.unread, each.held) == (2, 1, 4)
    assert each.ids == each.history() == [5, 6, 7, 8]


def test_tokens_beyond_the_end_are_left_out() -> None:
    stops, cut = row(stop_ids=[9]), row(max_tokens=2)
    for each in (stops, cut):
        each.advance(4)
    assert stops.commit([8, 9, 10, 11]) == "stop" and stops.generated() == [8, 9]
    assert cut.last_step
    assert cut.commit([8, 9, 10, 11]) == "length" and cut.generated() == [8, 9]


def test_a_stop_id_at_the_last_place_is_a_stop() -> None:
    each = row(stop_ids=[9], max_tokens=1)
    each.advance()
    assert each.commit([9]) == "stop"


@given(st.lists(st.tuples(st.sampled_from("acr"), st.integers(1, 4)), max_size=30))
def test_position_counts_what_was_drawn_and_not_taken_back(steps: list[tuple[str, int]]) -> None:
    each, drawn, token = row(max_tokens=1000), 0, 100
    for what, count in steps:
        if what == "a":
            each.advance(count)
            drawn += count
        elif what == "r":
            back = min(count, each.unread)
            each.rewind(back)
            drawn -= back
        else:
            new = [token + i for i in range(min(count, each.unread))]
            token += len(new)
            assert each.commit(new) is None
        assert each.position == drawn == each.produced + each.unread
        assert each.generated() == list(range(100, token))
        assert each.held == 3 + drawn - 1
    each.reset()
    assert each.unread == 0 and each.generated(1) == list(range(101, token))


def test_keys_follow_ids() -> None:
    plain = row()
    plain.advance()
    plain.commit([8])
    assert plain.keys is plain.ids
