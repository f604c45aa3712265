"""Files of sessions that are not what they were: they are refused before anything is used."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.model.model import Model
from budmlx.core.reuse.disk.files import header
from budmlx.core.reuse.disk.identity import layout_of, model_digest
from budmlx.core.reuse.session import FORMAT, TOKENS, SessionError, load_session, save_session
from tests.core.driver import load

LIMIT = 2**24
IDS = list(range(20, 60))


def computed(model: Model, ids: list[int], path: Path) -> Path:
    cache = model.new_cache()
    model(mx.array([ids]), cache)
    save_session(model, ids, cache, path)
    return path


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture
def file(model: Model, tmp_path: Path) -> Path:
    return computed(model, IDS, tmp_path / "session")


def refused(model: Model, path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(SessionError, match=words) as caught:
        load_session(model, path, LIMIT)
    assert str(path) in str(caught.value)


def start_of(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_what_was_saved_is_read(model: Model, file: Path) -> None:
    session = load_session(model, file, LIMIT)
    cache = model.new_cache()
    model(mx.array([IDS]), cache)
    wanted = [array[..., : len(IDS), :] for entry in cache for array in (entry.keys, entry.values)]
    assert session.ids == IDS
    assert [array.dtype for array in session.arrays] == [array.dtype for array in wanted]
    assert all(mx.array_equal(a, b) for a, b in zip(session.arrays, wanted, strict=True))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert len(mx.load(str(file), format="safetensors")) == 1 + len(wanted)


def test_every_flipped_bit_is_found(model: Model, file: Path) -> None:
    data, chance = file.read_bytes(), random.Random(3)
    start, bad = start_of(data), file.with_name("bad")
    payload = [start, start + 8 * len(IDS), len(data) - 1]
    places = [*range(16), *range(16, start, 5), *payload]
    for place in [*places, *(chance.randrange(start, len(data)) for _ in range(30))]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        refused(model, bad, flipped, "save it again")


def test_other_contents_are_found(model: Model, file: Path, tmp_path: Path) -> None:
    data, bad = file.read_bytes(), tmp_path / "bad"
    start = start_of(data)
    other = computed(model, IDS[::-1], tmp_path / "other").read_bytes()
    assert len(other) == len(data)
    refused(model, bad, data[:start] + other[start:], "is damaged")
    for end in (0, 7, 8, start - 1):
        refused(model, bad, data[:end], "is no session")
    each = (len(data) - start) // len(IDS)
    for end in (start, start + each, len(data) - each, len(data) - 1):
        refused(model, bad, data[:end], "is damaged")
    refused(model, bad, data + bytes(each), "is damaged")


def test_other_versions_and_models_are_told(model: Model, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    newer = data.replace(FORMAT.encode(), b"budmlx-session-3")
    refused(model, tmp_path / "newer", newer, "another version of budmlx; save it again")
    # As sessions were written before they had a checksum.
    older, digest = tmp_path / "older", model_digest(Path(model.info.path))
    arrays = {"ids": mx.array(np.asarray(IDS, np.int64)), "00000": mx.zeros((1, 2, 40, 32))}
    metadata = {"format": "budmlx-session-1", "model": digest}
    mx.save_safetensors(str(tmp_path / "older.safetensors"), arrays, metadata)
    written = (tmp_path / "older.safetensors").read_bytes()
    refused(model, older, written, "another version of budmlx; save it again")
    foreign = data.replace(digest.encode(), b"0" * len(digest))
    refused(model, tmp_path / "foreign", foreign, "another model")


def test_what_is_declared_takes_no_memory(model: Model, file: Path, tmp_path: Path) -> None:
    data, huge = file.read_bytes(), tmp_path / "huge"
    refused(model, huge, (10 * 2**30).to_bytes(8, "little") + data[8:], "is no session")
    shape = data.replace(b"[1,1,40]", b"[1,1,4000000000]")
    refused(model, huge, shape, "is no session")
    each = (len(data) - start_of(data)) // len(IDS)
    # A file that is as long as it says: nothing of it is read, since there is no room for it.
    layout, tokens = layout_of(model), 10 * 2**30 // each
    assert layout is not None
    metadata = {"format": FORMAT, "model": model_digest(Path(model.info.path)), "crc32": "0" * 8}
    start = header(metadata, (TOKENS, *layout), tokens)
    huge.write_bytes(start)
    with huge.open("r+b") as opened:
        opened.truncate(len(start) + tokens * each)
    with pytest.raises(SessionError, match="needs more memory than prefix_cache may take"):
        load_session(model, huge, LIMIT)
    with pytest.raises(SessionError, match="needs more memory than prefix_cache may take"):
        load_session(model, file, each * len(IDS) - 1)


def test_what_cannot_be_saved(model: Model, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="one token has nothing"):
        save_session(model, [], model.new_cache(), tmp_path / "empty")
    windows = replace(model, info=replace(model.info, needs_checkpoints=True))
    with pytest.raises(SessionError, match="cannot be saved"):
        save_session(windows, IDS, model.new_cache(), tmp_path / "windows")
    assert not list(tmp_path.iterdir())
