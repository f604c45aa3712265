"""Sealed texts come back from any process of the installation, and from no other."""

from __future__ import annotations

import logging
import stat
import tracemalloc
from pathlib import Path

import pytest

from budmlx.directories import state_directory
from budmlx.errors import InvalidRequestError
from budmlx.server import sealed as module
from budmlx.server.sealed import Opener, Sealer

TEXT = "A cat. 猫 \x00 \U0001f408 " + "and again " * 500


def test_a_text_comes_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    sealed = Sealer(path).seal(TEXT)
    assert sealed.isascii() and len(sealed) < len(TEXT)
    assert Sealer(path).opened(sealed) == TEXT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_what_was_not_sealed_here_is_nothing(tmp_path: Path) -> None:
    mine = Sealer(tmp_path / "key")
    sealed = mine.seal("thoughts")
    changed = sealed[:-3] + ("A" if sealed[-3] != "A" else "B") + sealed[-2:]
    other = Sealer(tmp_path / "other").seal("thoughts")
    for foreign in (changed, other, sealed[:-4], sealed[6:], "", "bmlx1_", "bmlx1_ü", "EqQBCkYI"):
        assert mine.opened(foreign) is None


def test_the_key_is_in_the_state_directory_unless_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    sealed = Sealer().seal("thoughts")
    assert Sealer(state_directory() / "seal.key").opened(sealed) == "thoughts"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        sealer = Sealer(blocked / "key")
        assert sealer.opened(sealer.seal("thoughts")) == "thoughts"
    assert "cannot be used" in caplog.text


def test_half_a_key_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    assert Sealer(path).opened(Sealer(path).seal("thoughts")) == "thoughts"


def test_what_is_opened_is_bounded(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path / "key")
    sealed = sealer.seal("x" * 2**25)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1000 bytes"):
            sealer.opened(sealed, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert sealer.opened(sealer.seal("é" * 500), 1000) == "é" * 500
    assert sealer.opened(sealer.seal(""), 0) == ""


def test_texts_of_one_request_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OPENED", 1000)
    sealer = Sealer(tmp_path / "key")
    sealed = sealer.seal("é" * 300)
    opener = Opener(sealer)
    assert opener.opened(sealed, "input[0]") == "é" * 300
    assert opener.opened("foreign", "input[1]") is None
    with pytest.raises(InvalidRequestError) as caught:
        opener.opened(sealed, "input[2].encrypted_content")
    assert caught.value.param == "input[2].encrypted_content"
