"""The index of n-grams and the drafts made with it, against plain searches."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from budmlx.core.speculate.drafts import FIRST_CHANCE, Drafts
from budmlx.core.speculate.ngram import (
    INDEXED_AT_ONCE,
    LONGEST,
    MOST_INDEXED,
    SHORTEST,
    Match,
    NgramIndex,
)
from budmlx.core.speculate.transcripts import MOST_KEPT, MOST_NAMESPACES, Transcripts
from budmlx.protocol import MOST_DRAFTED

# Few different tokens, so that everything occurs often.
TEXT = st.lists(st.integers(0, 2), max_size=60)


def agreeing(ids: Sequence[int], place: int, text: Sequence[int]) -> int:
    """How many tokens before `place` are the last ones of `text`."""
    most = min(place, len(text))
    return next((n for n in range(most) if ids[place - n - 1] != text[-n - 1]), most)


def naive(ids: Sequence[int], text: Sequence[int]) -> Match | None:
    """The longest of all occurrences of the ending of `text`, the latest of those as long."""
    end = len(ids) if text is not ids else len(ids) - 1
    lengths = {place: min(agreeing(ids, place, text), LONGEST) for place in range(end + 1)}
    found = [(length, place) for place, length in lengths.items() if length >= SHORTEST]
    return Match(max(found)[1], max(found)[0]) if found else None


@given(TEXT, TEXT)
def test_the_index_finds_what_a_search_finds(text: list[int], more: list[int]) -> None:
    index = NgramIndex(text)
    assert index.find(text) == naive(text, text)
    for token in more:
        text.append(token)
        assert index.find(text) == naive(text, text)


@given(TEXT, TEXT)
def test_the_ending_of_another_text(text: list[int], other: list[int]) -> None:
    assert NgramIndex(text).find(other) == naive(text, other)


@given(st.lists(st.integers(0, 2), min_size=40, max_size=80), st.integers(1, 5))
def test_of_few_candidates_the_latest_are_compared(text: list[int], candidates: int) -> None:
    match = NgramIndex(text, candidates).find(text)
    ending = text[-SHORTEST:]
    places = [p for p in range(SHORTEST, len(text)) if text[p - SHORTEST : p] == ending]
    assert (match.place if match else None) in (places[-candidates:] or [None])


def test_a_repetition_goes_on_beyond_its_end() -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 4]
    drafts = Drafts(text)
    assert drafts.draft(3) == [1, 2, 3]
    assert drafts.draft(6) == [1, 2, 3, 4, 1, 2]
    assert len(drafts.draft(100)) == MOST_DRAFTED
    assert drafts.draft(0) == []


def test_what_is_ahead_must_be_what_was_expected() -> None:
    drafts = Drafts([5, 6, 7, 8, 9, 0, 5, 6, 7])
    assert drafts.draft(2, [8]) == [9, 0]
    assert drafts.draft(2, [8, 9]) == [0, 5]
    assert drafts.draft(2, [9]) == []


def test_the_chance_is_learned_without_drafting() -> None:
    text = [1, 2, 3, 4, 5, 6]
    copying, other = list(text), list(text)
    copied, left = Drafts(copying), Drafts(other)
    for token in text * 5:
        copying.append(token)
        copied.follow(token)
    for token in [token for other in range(10, 20) for token in (1, 2, 3, other)]:
        other.append(token)
        left.follow(token)
    assert copied.chance > 0.9 > FIRST_CHANCE > left.chance
    assert Drafts([1, 2, 3]).chance == FIRST_CHANCE


@given(TEXT, TEXT)
def test_drafts_go_on_after_an_occurrence(text: list[int], more: list[int]) -> None:
    drafts = Drafts(text)
    for token in more:
        draft = drafts.draft(1)
        if draft:
            endings = [text[p - SHORTEST : p] for p in range(SHORTEST, len(text))]
            places = [p for p, e in enumerate(endings, SHORTEST) if e == text[-SHORTEST:]]
            assert any(text[place] == draft[0] for place in places)
        else:
            assert naive(text, text) is None
        text.append(token)
        drafts.follow(token)


def test_a_long_text_is_indexed_piece_by_piece() -> None:
    text = [token for n in range(3 * INDEXED_AT_ONCE) for token in (n, 7)]
    index, ending = NgramIndex(text), text[2 * INDEXED_AT_ONCE : 2 * INDEXED_AT_ONCE + 8]
    found = [index.find(ending) for _ in range(6)]
    assert found[0] is None and found[-1] == Match(2 * INDEXED_AT_ONCE + 8, 8)


def test_of_a_very_long_text_the_end_is_indexed() -> None:
    text = list(range(MOST_INDEXED + 1000))
    index = NgramIndex(text)
    for _ in range(MOST_INDEXED // INDEXED_AT_ONCE + 1):
        assert index.find(text[900:980]) is None
    assert index.find(text[900:1020]) == Match(1020, LONGEST)
    text += text[2000:2010]
    assert index.find(text) == Match(2010, 10)


def test_a_prediction_is_expected_from_its_beginning() -> None:
    ids, prediction = [1, 2], [10, 11, 12, 13, 14, 15]
    drafts = Drafts(ids, prediction)
    assert drafts.source == "prediction" and drafts.draft(4) == [10, 11, 12, 13]
    for token in prediction[:5]:
        ids.append(token)
        drafts.follow(token)
    assert drafts.draft(8) == [15] and drafts.chance > FIRST_CHANCE
    ids.append(15)
    drafts.follow(15)
    assert drafts.draft(8) == [] and drafts.source != "prediction"
    assert Drafts(ids, prediction, begun=True).draft(1) == []


def test_a_prediction_is_found_again_after_what_differs() -> None:
    ids, prediction = [1, 2], list(range(10, 30))
    drafts = Drafts(ids, prediction)
    for token in [10, 11, 99, 98, 15, 16, 17]:
        ids.append(token)
        drafts.follow(token)
    assert drafts.source == "prediction" and drafts.draft(3) == [18, 19, 20]


@given(TEXT, TEXT, TEXT)
def test_of_a_prediction_and_an_own_occurrence_the_longer_is_drafted(
    text: list[int], prediction: list[int], more: list[int]
) -> None:
    drafts = Drafts(text, prediction)
    for token in more:
        if drafts.draft(1) and drafts.source == "prediction":
            assert drafts.draft(1)[0] in prediction
        text.append(token)
        drafts.follow(token)
    draft = drafts.draft(1)
    if not draft:
        assert naive(text, text) is None


def test_what_is_forced_goes_first() -> None:
    ids = [1, 2, 3, 4, 1, 2, 3]
    forced = [[8, 9], [], [], []]
    drafts = Drafts(ids, forced=lambda: forced.pop(0))
    assert (
        drafts.draft(4) == [8, 9] and drafts.chance > FIRST_CHANCE and drafts.source != "prediction"
    )
    for token in (8, 9):
        ids.append(token)
        drafts.follow(token)
    assert drafts.draft(4) == []
    ids += [1, 2, 3]
    drafts.follow(3)
    assert drafts.draft(2) == [8, 9] and drafts.chance == FIRST_CHANCE


def test_what_others_said_is_drafted_where_nothing_else_is_as_long() -> None:
    said = Transcripts()
    assert said.of("one") is None
    ids = [1, 2, 3]
    drafts = Drafts(ids, others=lambda: said.of("one"))
    assert drafts.draft(3) == []
    said.add("one", [9, 1, 2, 3, 4, 5, 6])
    said.add("two", [1, 2, 3, 8, 8, 8])
    for token in (4, 5):
        ids.append(token)
        drafts.follow(token)
    assert drafts.draft(3) == [6]
    ids += [7, 3, 4, 5]
    drafts.follow(5)
    # As long in its own text, and later.
    assert drafts.draft(1) == [7]


def test_of_what_was_said_the_older_half_is_dropped() -> None:
    said = Transcripts()
    for begin in range(0, 4 * MOST_KEPT, 1000):
        said.add("one", list(range(begin, begin + 1000)))
        found = said.of("one")
        assert found is not None and len(found.ids) <= MOST_KEPT
        assert list(found.ids[-1000:]) == list(range(begin, begin + 1000))
    for name in range(MOST_NAMESPACES):
        said.add(str(name), [1, 2, 3, 4])
    assert said.of("one") is None
