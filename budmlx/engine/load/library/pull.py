"""Pulling: a model from the hub into its cache, with progress that anybody can follow."""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects, tqdm  # type: ignore[attr-defined]
from pydantic import ByteSize

from budmlx.engine.load.directory import check_links, no_weights
from budmlx.engine.load.repository import ALLOWED, IGNORED, REPOSITORY_NAME, failure
from budmlx.errors import CancelledError, ModelLoadError
from budmlx.threads import run_apart

try:
    from huggingface_hub.utils._xet import abort_xet_session
except ImportError:  # It is not public: a file that hf_xet fetches is then finished first.
    abort_xet_session = bool

_FAULTS = (OSError, HTTPError, ValueError, RuntimeError)
"""What huggingface_hub and the protocols below it raise."""
STOP_SECONDS = 2.0
_RUNNING: set[concurrent.futures.Future[str]] = set()
_FILES: Any = {"allow_patterns": ALLOWED, "ignore_patterns": IGNORED}


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is: asking the hub, fetching, or done.

    done: bytes of the model that are here. total: bytes of all of its files that are fetched.
    """

    stage: Literal["checking", "downloading", "done"]
    done: int = 0
    total: int = 0


Report = Callable[[PullProgress], object]
"""Called at each step, on any thread but never twice at once. It must be quick."""


def pull(
    name: str,
    revision: str | None = None,
    report: Report | None = None,
    cancelled: threading.Event | None = None,
) -> Path:
    """Fetch what is missing of the repository `name`; returns the directory of its snapshot.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always do. A connection that
    is lost is resumed; after an interruption the files that were complete are kept. Files that are
    complete are not fetched again, and all of them will do where the hub cannot be reached.

    revision: branch, tag or commit. cancelled: once it is set, fetching ends within seconds.

    Raises:
        ModelLoadError: the repository or the revision is missing, gated, without weights that can
            be loaded, or too large for the disk, all of which is told before weights are fetched;
            or the download failed.
        CancelledError: `cancelled` was set.
    """
    if not REPOSITORY_NAME.fullmatch(name):
        raise ModelLoadError(f"{name!r} is not a hub repository: those are named like org/name.")
    report, cancelled = report or _nobody, cancelled or threading.Event()
    try:
        report(PullProgress("checking"))
        plan = _plan(name, revision)
        if plan is not None:
            _check(name, plan)
        count = _Count(plan, report, cancelled, name)
        options = {"revision": revision, "tqdm_class": count.bar, **_FILES}
        path = Path(_interruptible(partial(snapshot_download, name, **options), cancelled))
        if constants.HF_HUB_OFFLINE:
            check_links(path, name, "Unset HF_HUB_OFFLINE, so that it is fetched again.")
    except _FAULTS as error:
        if cancelled.is_set():
            raise _cancelled(name) from error
        raise failure(error, name, revision) from error
    report(PullProgress("done", count.total, count.total))
    return path


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a pull is about. files: sizes of all files of the model, by name. missing: some of them.

    everything: the names of all files of the repository.
    """

    commit: str
    files: Mapping[str, int]
    missing: Sequence[str]
    everything: Sequence[str]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def needed(self) -> int:
        """Bytes that are to be fetched."""
        return sum(self.files[name] for name in self.missing)


def _plan(name: str, revision: str | None) -> _Plan | None:
    """What the hub has and the cache lacks; None where the hub cannot be asked.

    Then the library itself uses what is here, or says what is wrong.
    """
    hub = HfApi()
    try:
        commit = str(hub.repo_info(name, revision=revision or "main").sha)
        tree = hub.list_repo_tree(name, recursive=True, revision=commit)
        listed = {each.path: each for each in tree if isinstance(each, RepoFile)}
    except _FAULTS:
        return None
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    wanted = [listed[path] for path in filter_repo_objects(listed, **_FILES)]
    missing = [
        file.path
        for file in wanted
        if not (folder / "snapshots" / commit / file.path).exists()
        and not (folder / "blobs" / (file.lfs.sha256 if file.lfs else file.blob_id)).exists()
    ]
    return _Plan(commit, {file.path: file.size for file in wanted}, missing, list(listed))


def _check(name: str, plan: _Plan) -> None:
    """Refuse what would be fetched in vain. Raises ModelLoadError, or what the hub says."""
    if not any(Path(path).match("model*.safetensors") for path in plan.files):
        raise ModelLoadError(f"{name} {no_weights(plan.everything)}")
    if not plan.missing:
        return
    cache = Path(constants.HF_HUB_CACHE)
    place = next(each for each in (cache, *cache.parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if plan.needed > free:
        raise ModelLoadError(
            f"{name} is too large for the disk: {_size(plan.needed)} are to be fetched, "
            f"{_size(free)} are free in {cache}. Free some, or set HF_HOME elsewhere.",
            code="no_space",
        )
    # Lists of gated repositories are open, their files are not.
    get_hf_file_metadata(hf_hub_url(name, plan.missing[0], revision=plan.commit))


def downloads_run() -> bool:
    """Whether a download goes on, also one that was cancelled and waits for the network.

    huggingface_hub's threads are such that Python waits for them at its end.
    """
    return bool(_RUNNING)


def _size(count: int) -> str:
    return ByteSize(count).human_readable(separator=" ")


def _nobody(progress: PullProgress) -> None:
    """Reports to nobody."""


def _cancelled(name: str) -> CancelledError:
    return CancelledError(f"The download of {name} was cancelled; complete files are kept.")


def _interruptible(call: Callable[[], str], cancelled: threading.Event) -> str:
    """The result of a call that ends early once `cancelled` is set; Ctrl-C sets it."""
    future = run_apart("budmlx-pull", call)
    _RUNNING.add(future)
    future.add_done_callback(_RUNNING.discard)
    try:
        return future.result()
    except KeyboardInterrupt:
        cancelled.set()
        abort_xet_session()  # type: ignore[no-untyped-call]
        # It may wait for the network as long as that takes.
        concurrent.futures.wait([future], STOP_SECONDS)
        raise


class _NoBar(tqdm):
    """A bar that is never shown."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


class _Count:
    """The bytes of a download, counted by the bars that huggingface_hub makes for them.

    It has one for what arrives and one for what is written, which differ for files that are put
    together from pieces; the one that is ahead counts.
    """

    def __init__(
        self,
        plan: _Plan | None,
        report: Report,
        cancelled: threading.Event,
        name: str,
    ):
        self.total = plan.total if plan else 0
        self._here = self.total - plan.needed if plan else 0
        self._counted: dict[int, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._report = report
        self._cancelled = cancelled
        self._name = name
        if self._here < self.total:
            report(PullProgress("downloading", self._here, self.total))

    @property
    def bar(self) -> type[tqdm]:
        """A class of bars that are not shown, but counted."""
        add = self._add

        class Bar(_NoBar):
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs)
                self._of_bytes = kwargs.get("unit") == "B"

            def update(self, n: float | None = 1) -> None:
                if self._of_bytes:
                    add(id(self), int(n or 0))

        return Bar

    def _add(self, bar: int, count: int) -> None:
        """Count bytes. Raises CancelledError, which ends the download of the file."""
        if self._cancelled.is_set():
            raise _cancelled(self._name)
        with self._lock:
            if not self.total:
                return
            self._counted[bar] += count
            done = min(self._here + max(self._counted.values()), self.total)
            self._report(PullProgress("downloading", done, self.total))
