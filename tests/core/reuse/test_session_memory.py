"""A session is kept whatever rows need, and lends its KV, to the token, to every namespace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.tree import Match
from budmlx.core.schedule.admission import Admission
from budmlx.protocol import SessionFile
from tests.core.driver import Driver, load, request
from tests.core.reuse.test_blocks import BLOCK, Reusing, cold, words


def test_rows_wait_for_what_a_session_leaves(tmp_path: Path) -> None:
    model, path = load(), str(tmp_path / "session")
    ids = words(1, 600)
    writer = Driver(model)
    save = SessionFile(path=path, save=True)
    writer.submit(request(0, ids, max_tokens=1, session=save))
    writer.run()

    rows = [request(n, words(n, 300), max_tokens=4) for n in (1, 2, 3)]
    lengths = [[700]] * 3
    needed = model.memory.total(lengths, 64)
    tight = replace(model, memory=replace(model.memory, limit=needed + 1000))
    admission = Admission(tight.info, tight.memory, 64, 2**25)
    assert admission.fits(lengths)
    reuse = BlockReuse(tight, 2**28)
    driver = Driver(tight, max_rows=8, reuse=reuse)
    driver.submit(request(0, [5], max_tokens=1, session=SessionFile(path=path, save=False)))
    driver.run()
    assert reuse.reserved == sum(
        array.nbytes for s in reuse._sessions.values() for array in s.arrays
    )
    assert reuse.reserved > 1000
    admission.reserved = reuse.reserved
    assert not admission.fits(lengths) and admission.fits([[700]])
    driver.submit(*rows)
    driver.run()
    assert not driver.failed and driver.scheduler._admission.reserved == reuse.reserved


def test_a_session_lends_to_the_token(tmp_path: Path) -> None:
    model, path = load(), str(tmp_path / "session")
    ids = words(1, 2 * BLOCK + 5)
    writer = Driver(model)
    save = SessionFile(path=path, save=True)
    writer.submit(request(0, [*ids, 7], max_tokens=1, session=save))
    writer.run()
    # Lengths of what is asked of the session, and in which namespace.
    asked = [("a", 19), ("a", 21), ("a", 21), ("a", 20), ("b", 6), ("b", 9), ("b", 21), ("", 3)]
    rows = [
        request(n, [*ids[:length], 300 + n, *words(n, 6)], namespace=space, max_tokens=9)
        for n, (space, length) in enumerate(asked, start=1)
    ]
    expected = cold(model, *rows)
    driver = Reusing(model, least=4)
    for _ in range(2):
        assert not driver.reuse.open_session(SessionFile(path=path, save=False))
    for row, (_, length) in zip(rows, asked, strict=True):
        assert driver.once(row) == expected[row.id], row.id
        assert driver.cached[row.id] == (length if length >= 4 else 0)
    lent = driver.reuse.find("c", ids[:18], 0)
    assert isinstance(lent, Match) and lent.length == 18
    for block in lent.blocks:
        assert {array.shape[2] for array in block.value} == {len(block.tokens)}
