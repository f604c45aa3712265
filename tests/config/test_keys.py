"""Files of API keys: whole keys, records, and changes that leave the rest alone."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budmlx.config import Config
from budmlx.config.key_file import KEY_BYTES, PREFIX, add_record, new_key, remove_record
from budmlx.config.keys import BY_PLACE, ApiKey, KeyFile, digest_of, line_of, parsed
from budmlx.errors import ConfigError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True).filter(
    lambda name: not BY_PLACE.fullmatch(name)
)
TIMES = st.datetimes(datetime(1980, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC))
MODELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
RECORDS = st.builds(
    ApiKey,
    name=NAMES,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    admin=st.booleans(),
    rpm=st.none() | st.integers(1, 2**53),
    models=st.lists(MODELS, max_size=3).map(tuple),
    expires=st.none() | TIMES,
)
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
PLAIN = VISIBLE.filter(lambda key: not key.startswith(("#", "{")))
COMMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).map(
    lambda text: f"# {text}"
)
BLANKS = st.sampled_from(["", " ", "\t"])
LINES = st.one_of(RECORDS, PLAIN, COMMENTS, BLANKS)


def written(lines: list[ApiKey | str]) -> str:
    return "".join(f"{line if isinstance(line, str) else line_of(line)}\n" for line in lines)


@given(st.lists(LINES, unique_by=lambda line: line.name if isinstance(line, ApiKey) else line))
def test_what_is_written_is_read(lines: list[ApiKey | str]) -> None:
    file = parsed(written(lines))
    assert list(file.records) == [line for line in lines if isinstance(line, ApiKey)]
    keys = [line for line in lines if isinstance(line, str) and line.strip()]
    assert [key for key, _ in file.plain] == [key for key in keys if key[0] != "#"]
    for key, place in file.plain:
        number = int(place.removeprefix("api_key_file: line "))
        assert lines[number - 1] == key


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    try:
        file = parsed(text)
    except ConfigError as error:
        assert re.match(r"api_key_file: line \d+: ", error.message)
    else:
        assert all(re.fullmatch("[!-~]+", key) for key, _ in file.plain)


@given(record=RECORDS, cut=st.integers(0, 200), junk=VISIBLE)
def test_a_damaged_record_is_never_another_one(record: ApiKey, cut: int, junk: str) -> None:
    line = line_of(record)
    damaged = line[:cut] + junk + line[cut + 1 :]
    try:
        file = parsed(damaged)
    except ConfigError as error:
        assert record.sha256 not in error.message
    else:
        assert all(each.digest and each.name for each in file.records)


@given(
    lines=st.lists(LINES, unique_by=lambda line: line.name if isinstance(line, ApiKey) else line),
    record=RECORDS,
    ended=st.booleans(),
)
@example(lines=["# \r\x08"], record=ApiKey("a", digest_of("k").hex()), ended=True)
def test_changes_leave_everything_else(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[ApiKey | str],
    record: ApiKey,
    ended: bool,
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys"
    before = written(lines) if ended else written(lines).removesuffix("\n")
    path.write_bytes(before.encode())
    if record.name in {line.name for line in lines if isinstance(line, ApiKey)}:
        with pytest.raises(ConfigError, match="has a key already"):
            add_record(path, record)
        remove_record(path, record.name)
        assert record.name not in {each.name for each in parsed(path.read_bytes().decode()).records}
        return
    add_record(path, record)
    assert path.stat().st_mode & 0o777 == 0o600
    assert parsed(path.read_bytes().decode()).records[-1] == record
    remove_record(path, record.name)
    assert path.read_bytes().decode() == before + (
        "" if before.endswith("\n") or not before else "\n"
    )


def test_a_key_is_random_and_only_its_digest_is_in_the_file(tmp_path: Path) -> None:
    one, other = new_key(), new_key()
    assert one != other and len(one) >= len(PREFIX) + KEY_BYTES * 8 / 6
    path = tmp_path / "folder" / "keys"
    add_record(path, ApiKey("alice", digest_of(one).hex()))
    assert one not in path.read_text() and path.parent.stat().st_mode & 0o777 == 0o700
    config = Config.of(api_key_file=path)
    assert config.needs_key and config.accepted_keys() == ()
    file = config.key_file()
    assert file == KeyFile([], (ApiKey("alice", digest_of(one).hex()),))


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"

    def add(number: int) -> None:
        add_record(path, ApiKey(f"user-{number}", digest_of(new_key()).hex()))
        if number % 2:
            remove_record(path, f"user-{number}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {each.name for each in parsed(path.read_text()).records}
    assert names == {f"user-{number}" for number in range(0, 20, 2)}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"name": "a", "sha256": "00"}', "sha256"),
        ('{"name": "key-1", "sha256": "%s"}' % ("0" * 64), "cannot be the name"),
        ('{"name": "a b", "sha256": "%s"}' % ("0" * 64), "name"),
        ('{"name": "a", "sha256": "%s", "rights": 1}' % ("0" * 64), "unknown field `rights`"),
        ('{"name": "a", "sha256": "%s", "expires": "soon"}' % ("0" * 64), "expires"),
        ('{"name": "a", "sha256": "%s", "rpm": 0}' % ("0" * 64), "rpm"),
        ('{"name": "a", "sha256": "%s", "models": [""]}' % ("0" * 64), "models"),
        ('{"name": "a", "sha256": ', "line 2"),
        ('{"name": "first", "sha256": "%s"}' % ("0" * 64), "first has a key above"),
    ],
)
def test_a_wrong_record_is_refused_with_its_line(line: str, reason: str) -> None:
    first = line_of(ApiKey("first", "1" * 64))
    with pytest.raises(ConfigError, match=reason) as caught:
        parsed(f"{first}\n{line}\n")
    assert "line 2" in caught.value.message


def test_a_name_that_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigError, match="No such file"):
        remove_record(path, "alice")
    path.write_text("plain-key\n")
    with pytest.raises(ConfigError, match="no key of the name"):
        remove_record(path, "alice")
    assert path.read_text() == "plain-key\n"
