"""Which small changes of the package its tests notice.

    python -m tests.mutants draw         new changes of the files that changed last, with a seed
    python -m tests.mutants run 0 10     of those ten, whether tests notice them; or all
    python -m tests.mutants confirm      that those tests pass without the changes
    python -m tests.mutants show         a table, and how many are noticed

The list, `drawn.jsonl`, has what was found and stays as it is until the next `draw`. Tests run in a
copy of the working tree, so that nothing else sees a change.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from tests.mutants.changes import Change, changes_of

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("drawn.jsonl")
COUNT, SEED, COMMITS = 60, 23, 120
SECONDS = 90
"""Of all tests of one change."""
FILES = 8
"""Most test files that are asked about one change."""
ELSEWHERE = ("clients", "gpu", "page", "real", "packages", "scaling")
"""Folders of tests that need more than this environment."""

Entry = dict[str, Any]


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def changed_last() -> list[str]:
    """Python files of the package that the last commits changed, in the order of their names."""
    names = git("log", f"-{COMMITS}", "--name-only", "--format=", "--", "budmlx").split()
    there = {name for name in names if name.endswith(".py") and (ROOT / name).exists()}
    return sorted(there)


def drawn() -> list[Entry]:
    """Changes of files that are all different, with a seed: a file, then a place in it."""
    chance = random.Random(SEED)
    files = changed_last()
    chance.shuffle(files)
    entries: list[Entry] = []
    for file in files:
        found = changes_of((ROOT / file).read_text("utf-8"))
        if found and len(entries) < COUNT:
            entries.append({"file": file, **vars(chance.choice(found))})
    return entries


def importing(file: str) -> re.Pattern[str]:
    """What imports a file of the package."""
    package, _, name = ".".join(Path(file).with_suffix("").parts).rpartition(".")
    start = rf"^from {re.escape(package)}"
    return re.compile(rf"{start}\.{name} import |{start} import .*\b{name}\b", re.MULTILINE)


def nearest(file: str) -> list[str]:
    """Test files for a file: of its name, that import it, then those of what imports it, then
    those of its folder that have its name, and others that have it."""
    *folders, name = Path(file).relative_to("budmlx").with_suffix("").parts
    imports, word = importing(file), re.compile(rf"\b{name}\b")
    users = [
        each.relative_to(ROOT)
        for each in sorted((ROOT / "budmlx").rglob("*.py"))
        if imports.search(each.read_text("utf-8"))
    ]
    of_users = [importing(str(each)) for each in users]
    names = {f"test_{each.stem}" for each in users}
    found: list[tuple[int, int, int, str]] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        inner = path.relative_to(ROOT / "tests").parts
        if inner[0] in ELSEWHERE:
            continue
        source = path.read_text("utf-8")
        said = len(word.findall(source))
        here = inner[: len(folders)] == tuple(folders)
        if path.stem == f"test_{name}":
            rank = 0
        elif imports.search(source):
            rank = 1
        elif path.stem in names or any(each.search(source) for each in of_users):
            rank = 2
        elif here or said:
            rank = 3 if here and said else 4
        else:
            continue
        words = set(name.split("_")) & set(path.stem.split("_"))
        common = takewhile(lambda pair: pair[0] == pair[1], zip(inner, folders, strict=False))
        away = len(inner) - 1 - len(list(common))
        found.append((rank, away - 3 * len(words), -said, str(path.relative_to(ROOT))))
    return [path for *_, path in sorted(found)[:FILES]]


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the working tree's files that git knows or would."""
    with tempfile.TemporaryDirectory(prefix="budmlx-mutants-") as folder:
        for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
            if (ROOT / name).is_file():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


def tested(copy: Path, tests: list[str], seconds: float = SECONDS) -> str | None:
    """The test that fails first, "" if none does; None if the time did not suffice for all."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "BUDMLX_DEVICE": "cpu"}
    options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "60", "--tb", "no", "-rfE"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
    if process.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", output, re.MULTILINE)
    # A test that hangs ends the whole run.
    return found[1] if found else "all: " + output.strip().splitlines()[-1][:80]


def outcome(copy: Path, entry: Entry) -> Entry:
    """What tests say about a change: `noticed` by one, or what was `asked` in vain."""
    change = Change(**{name: entry[name] for name in Change.__annotations__})
    target = copy / entry["file"]
    source = target.read_text("utf-8")
    tests = entry.get("asked") or nearest(entry["file"])
    target.write_text(change.applied(source), "utf-8")
    try:
        failed = tested(copy, tests)
    finally:
        target.write_text(source, "utf-8")
    if failed:
        return {"noticed": failed}
    return {"asked": tests, "left": "out of time" if failed is None else "all pass"}


def read() -> list[Entry]:
    return [json.loads(line) for line in LIST.read_text("utf-8").splitlines()]


def write(entries: list[Entry]) -> None:
    LIST.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")


def run(numbers: list[int], again: bool) -> None:
    """Ask tests about those changes of the list that have no outcome, or about all of them."""
    with copied() as copy:
        for number in numbers:
            entry = read()[number]
            if "noticed" in entry or "same" in entry or ("left" in entry and not again):
                continue
            entry = {key: value for key, value in entry.items() if key != "left"}
            entry |= outcome(copy, entry)
            entries = read()
            entries[number] = entry
            write(entries)
            told = entry.get("noticed") or f"NOT NOTICED ({entry['left']})"
            print(f"{number:3} {entry['file']}:{entry['line']} {told}", flush=True)


def confirm() -> None:
    """A test that fails without a change, too, has not noticed it: run all that did."""
    with copied() as copy:
        while noticed := {e["noticed"].partition("[")[0] for e in read() if "noticed" in e}:
            failed = tested(
                copy, sorted(each for each in noticed if not each.startswith("all: ")), 3600
            )
            if not failed:
                break
            print(f"fails without a change: {failed}", flush=True)
            write([_unless(entry, failed) for entry in read()])
    show()


def _unless(entry: Entry, failed: str) -> Entry:
    if entry.get("noticed", "").partition("[")[0] != failed.partition("[")[0]:
        return entry
    return {**{key: value for key, value in entry.items() if key != "noticed"}, "left": failed}


def show() -> None:
    """A table of all, and a sum."""
    entries = read()
    for number, entry in enumerate(entries):
        told = entry.get("noticed") or entry.get("same") or entry.get("left") or "not asked"
        place = f"{entry['file']}:{entry['line']} {entry['function']}"
        print(f"{number:3} {place}\n    {entry['before']!r} -> {entry['after']!r}\n    {told}")
    noticed = sum("noticed" in entry for entry in entries)
    same = sum("same" in entry for entry in entries)
    print(f"{noticed} of {len(entries)} are noticed; {same} more change nothing that can be seen")


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("command", choices=["draw", "run", "confirm", "show"])
    parser.add_argument("numbers", type=int, nargs="*", help="first and count")
    parser.add_argument("--again", action="store_true", help="those that were not noticed, too")
    arguments = parser.parse_args()
    if arguments.command == "draw":
        write(drawn())
    elif arguments.command == "show":
        show()
    elif arguments.command == "confirm":
        confirm()
    else:
        first, count = arguments.numbers or (0, COUNT)
        run(list(range(first, min(first + count, len(read())))), arguments.again)


if __name__ == "__main__":
    main()
