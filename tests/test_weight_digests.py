"""The fingerprint follows the weights, and a file of weights is read once."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from budmlx import weight_digests
from budmlx.model_identity import ModelIdentity
from budmlx.weight_digests import WeightDigests

OLD = time.time_ns() - 10**12


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which small files are large ones, that have been there for long."""
    monkeypatch.setattr(weight_digests, "SMALL", 0)
    monkeypatch.setattr(weight_digests, "PIECE", 1000)
    monkeypatch.setattr(weight_digests, "CHUNK", 300)
    monkeypatch.setattr(weight_digests, "SETTLED_NS", 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    write(path / "model-1.safetensors", bytes(range(250)) * 40)
    write(path / "model-2.safetensors", b"short")
    return path


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))


def look(model: Path) -> tuple[str, int]:
    """The fingerprint, and how many files were read for it."""
    digests = WeightDigests(model, model.parent / "kept")
    return ModelIdentity.read(model).fingerprint(digests), digests.reads


def test_a_file_is_read_once(model: Path) -> None:
    first, reads = look(model)
    assert reads == 2
    assert look(model) == (first, 0)
    os.utime(model / "model-2.safetensors")
    assert look(model) == (first, 1)
    assert look(model) == (first, 0)


@pytest.mark.parametrize("place", [0, 999, 1000, 5000, 9999])
def test_any_weight_changes_it_though_size_and_time_stay(model: Path, place: int) -> None:
    first, _ = look(model)
    shard = model / "model-1.safetensors"
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    write(shard, bytes(content))
    second, reads = look(model)
    assert second != first and reads == 1
    assert look(model) == (second, 0)


def test_a_copy_has_the_same_and_shards_that_changed_places_do_not(model: Path) -> None:
    first, _ = look(model)
    other = model.with_name("copy")
    shutil.copytree(model, other)
    assert look(other) == (first, 2)
    a, b = other / "model-1.safetensors", other / "model-2.safetensors"
    a.rename(other / "x")
    b.rename(a)
    (other / "x").rename(b)
    assert look(other)[0] != first


def test_what_was_written_just_now_is_not_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_digests, "SETTLED_NS", 10**12)
    first, _ = look(model)
    assert look(model) == (first, 2)


def test_without_a_place_to_keep_them_they_are_computed_each_time(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model.parent / "kept").write_text("a file")
    first, _ = look(model)
    assert "cannot be kept" in caplog.text
    assert look(model) == (first, 2)


@pytest.mark.parametrize("content", [b"", b"[]", b"{broken", b"\xff"])
def test_a_broken_file_of_ours_is_replaced(model: Path, content: bytes) -> None:
    first, _ = look(model)
    [kept] = (model.parent / "kept").iterdir()
    kept.write_bytes(content)
    assert look(model) == (first, 2)
    assert look(model) == (first, 0)
