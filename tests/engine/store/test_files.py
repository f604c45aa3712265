"""Files whose index is damaged or of a later version: their content is set aside, not lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from budmlx.engine.store.files import INDEX, FileStore
from budmlx.engine.store.store import Limits
from budmlx.errors import ConfigError
from tests.engine.store.test_store import _damaged, _later

LIMITS = Limits(10, 1000, 1)


@pytest.mark.parametrize("spoil", [_later, _damaged])
def test_what_a_spoilt_index_knew_is_set_aside(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:  # LIMITS 140
    files = FileStore(tmp_path, LIMITS, 100)
    with files.upload("me") as output:
        output.write(b"abc")
        kept = output.keep("name", "batch")
    files.close()
    spoil(tmp_path / INDEX)
    files = FileStore(tmp_path, LIMITS, 100)
    assert files.get("me", kept.id) is None and not files.path(kept).exists()
    (index,) = tmp_path.glob(f"{INDEX}.set-aside-*")
    (content,) = tmp_path.glob("files.set-aside-*")
    assert (content / kept.id).read_bytes() == b"abc"
    assert [each.name in line for each, line in zip((index, content), caplog.messages, strict=True)]
    with files.upload("me") as output:
        assert files.get("me", output.keep("name", "batch").id) is not None
    files.close()
    FileStore(tmp_path, LIMITS, 100).close()
    assert os.listdir(content) == [kept.id]


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:  # LIMITS 134
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"files_dir: .*file/x cannot be used: .* can write, or"):
        FileStore(tmp_path / "file" / "x", LIMITS, 100)
