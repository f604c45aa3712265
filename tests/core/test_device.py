"""The device that the core computes on is the one that the environment names."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from budmlx import Engine
from budmlx.backend import DEVICE_VARIABLE
from budmlx.config.sources import load_config
from budmlx.core.device import use_device
from budmlx.errors import ModelLoadError
from tests.models import tiny_model_dir


@pytest.fixture(autouse=True)
def default_device() -> Iterator[None]:
    before = mx.default_device()
    yield
    mx.set_default_device(before)


@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="there is no GPU")
def test_the_cpu_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, device in (("gpu", mx.gpu), ("cpu", mx.cpu)):
        monkeypatch.setenv(DEVICE_VARIABLE, name)
        use_device()
        assert mx.default_device() == device


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "gpu")
    with pytest.raises(ModelLoadError, match="cannot use the device gpu"):
        use_device()


@pytest.mark.parametrize("host", ["thread", "process"])
def test_every_core_reads_it(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "abacus")
    with pytest.raises(ModelLoadError, match="'abacus'; it must be cpu or gpu"):
        Engine.load(tiny_model_dir(), engine_host=host)


def test_the_variable_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert DEVICE_VARIABLE not in load_config({}).unknown_variables
