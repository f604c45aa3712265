"""Without a back end of MLX, the first line says what to install, and no traceback follows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from importlib.metadata import metadata
from pathlib import Path

import pytest

from budmlx.backend import LINUX_PACKAGES, check_backend, conflict
from budmlx.errors import ModelLoadError
from tests.docs.pages import ROOT

ADVICE = "--force-reinstall" if sys.platform == "darwin" else 'pip install "budmlx[cuda]"'


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """A directory with MLX as its package has it, without the library of a back end."""
    spec = importlib.util.find_spec("mlx.core")
    assert spec is not None and spec.origin is not None
    copy = tmp_path / "mlx" / Path(spec.origin).name
    copy.parent.mkdir()
    copy.write_bytes(Path(spec.origin).read_bytes())
    return tmp_path


def run(first: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a directory in front of all others."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": f"{first}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_the_server_says_it_first(without: Path) -> None:
    done = run(without, "-m", "budmlx", "serve")
    (line,) = done.stderr.splitlines()
    assert line.startswith("budmlx: MLX has no back end here.") and ADVICE in line
    assert (done.returncode, done.stdout) == (1, "")


LOAD = """
    import sys
    from budmlx import Engine
    from budmlx.errors import ModelLoadError

    for host in ("thread", "process"):
        try:
            Engine.load(engine_host=host)
        except ModelLoadError as error:
            print(error.message)
    print([name for name in sys.modules if name.partition(".")[0] == "mlx"])
"""


def test_an_engine_says_it_without_loading_mlx(without: Path) -> None:
    done = run(without, "-c", textwrap.dedent(LOAD))
    first, second, modules = done.stdout.splitlines()
    assert first == second and first.startswith("MLX has no back end here.") and ADVICE in first
    assert modules == "[]" and done.stderr == ""


def test_both_hosts_say_that_a_back_end_cannot_be_loaded(without: Path) -> None:
    library = without / "mlx" / "lib" / "libmlx.so"
    library.parent.mkdir()
    for suffix in (".so", ".dylib"):
        library.with_suffix(suffix).write_bytes(b"not a library")
    done = run(without, "-c", textwrap.dedent(LOAD))
    thread, process, _modules = done.stdout.splitlines()
    for line in (thread, process):
        assert line.startswith("MLX cannot be loaded (") and "libmlx" in line and ADVICE in line
    assert done.stderr == ""


def pretend_installed(folder: Path, package: str) -> None:
    information = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    information.mkdir()
    text = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    (information / "METADATA").write_text(text)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    check_backend()
    pretend_installed(tmp_path, "mlx-cuda-13")
    with pytest.raises(ModelLoadError, match="no NVIDIA driver"):
        check_backend()
    pretend_installed(tmp_path, "mlx-cpu")  # whose files it may be that are there
    check_backend()


def test_back_ends_over_each_other_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for package in LINUX_PACKAGES[::2]:
        assert conflict() == ""
        pretend_installed(tmp_path, package)
    assert "mlx-cpu and mlx-cuda-13 are both installed" in conflict()
    assert "pip uninstall mlx-cpu mlx-cuda-13" in conflict()


def test_mlx_has_these_packages() -> None:
    required = " ".join(metadata("mlx").get_all("Requires-Dist") or [])
    assert all(f"{package}==" in required for package in LINUX_PACKAGES)
