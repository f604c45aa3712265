"""The policy follows from what devices say of themselves, in dictionaries recorded on some."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.memory_policy import GIB, MIB, DeviceMemory, MemoryPolicy

RAM = 32 * GIB

# As `mx.device_info()` printed them; the last Mac's owner has raised `iogpu.wired_limit_mb`.
MACS: dict[str, dict[str, str | int]] = {
    "A18 Pro": {
        "device_name": "Apple A18 Pro",
        "max_recommended_working_set_size": 5726633984,
        "memory_size": 8589934592,
        "architecture": "applegpu_g17p",
        "max_buffer_length": 4294967296,
        "resource_limit": 499000,
    },
    "M4 Pro": {
        "device_name": "Apple M4 Pro",
        "max_recommended_working_set_size": 40200896512,
        "memory_size": 51539607552,
        "architecture": "applegpu_g16s",
        "max_buffer_length": 30150672384,
        "resource_limit": 499000,
    },
    "M5 Max": {
        "device_name": "Apple M5 Max",
        "max_recommended_working_set_size": 115448725504,
        "memory_size": 137438953472,
        "architecture": "applegpu_g17s",
        "max_buffer_length": 86586540032,
        "resource_limit": 499000,
    },
    "M5 Max, raised": {
        "device_name": "Apple M5 Max",
        "max_recommended_working_set_size": 60129542144,
        "memory_size": 68719476736,
        "architecture": "applegpu_g17s",
        "max_buffer_length": 41747087360,
        "resource_limit": 499000,
    },
}
# The keys are those of MLX's source, the sizes those of an H100.
H100: dict[str, str | int] = {
    "device_name": "NVIDIA H100 80GB HBM3",
    "architecture": "sm_90",
    "pci_bus_id": "0000:04:00.0",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "total_memory": 85520809984,
    "free_memory": 84929347584,
}
CPU: dict[str, str | int] = {"device_name": "Intel(R) Xeon(R)", "architecture": "x86_64"}


def mac(name: str) -> DeviceMemory:
    return DeviceMemory.of(MACS[name], RAM)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("A18 Pro", 4 * GIB),  # what 4 GiB of reserve leave of 8
        ("M4 Pro", int(0.85 * 40200896512)),
        ("M5 Max", int(0.85 * 115448725504)),
        ("M5 Max, raised", int(0.85 * 60129542144)),
    ],
)
def test_a_mac_keeps_a_reserve(name: str, limit: int) -> None:
    assert MemoryPolicy.choose(mac(name)).limit == limit


def test_a_large_mac_keeps_a_share_of_its_memory() -> None:
    raised = replace(mac("M5 Max"), recommended=137438953472)
    assert raised.limit == int(0.85 * 137438953472)
    assert replace(raised, recommended=2 * 137438953472).limit == pytest.approx(
        0.88 * 137438953472, abs=1
    )


def test_a_cuda_device_is_not_measured_by_the_host() -> None:
    device = DeviceMemory.of(H100, 2**50)
    assert (device.backend, device.size, device.capability) == ("cuda", 85520809984, 9)
    assert MemoryPolicy.choose(device).limit == int(0.9 * 85520809984)


def test_a_cpu_leaves_a_quarter_of_the_machine() -> None:
    device = DeviceMemory.of(CPU, RAM)
    assert (device.backend, device.recommended) == ("cpu", None)
    policy = MemoryPolicy.choose(device)
    assert (policy.limit, policy.unused, policy.wirable) == (24 * GIB, None, 0)


def test_this_device_is_one_of_them() -> None:
    device = DeviceMemory.here()
    assert device.backend in ("metal", "cuda", "cpu") and 0 < device.limit < device.size


@pytest.mark.parametrize("device", [mac("M4 Pro"), DeviceMemory.of(H100, RAM)])
def test_a_limit_that_is_set_is_the_limit(device: DeviceMemory) -> None:
    policy = MemoryPolicy.choose(device, 2 * GIB)
    assert (policy.limit, policy.unused) == (2 * GIB, 256 * MIB)
    assert MemoryPolicy.choose(device).unused == int(0.03 * device.limit)


def test_a_share_for_the_prefix_cache_is_bounded_and_a_size_is_not() -> None:
    policy = MemoryPolicy.choose(mac("M4 Pro"), 40 * GIB)  # of 48 GiB
    assert policy.prefix_cache(0.5, 10 * GIB) == 12 * GIB
    assert policy.prefix_cache(0.5, 30 * GIB) == 5 * GIB
    assert policy.prefix_cache(0.9, 0) == 12 * GIB
    assert policy.prefix_cache(20.0 * GIB, 30 * GIB) == 20 * GIB
    assert policy.prefix_cache(0.5, 50 * GIB) == policy.prefix_cache(0, 0) == 0


def test_stored_kv_leaves_half_of_the_buffers() -> None:
    assert MemoryPolicy.choose(mac("M5 Max")).stored_arrays == 249500
    for info in (H100, CPU):
        assert MemoryPolicy.choose(DeviceMemory.of(info, RAM)).stored_arrays == float("inf")


@pytest.mark.parametrize(
    ("wired", "loaded", "expected"),
    [
        ("weights", 9 * GIB, 9 * GIB),
        ("weights", 90 * GIB, 40200896512),
        ("all", 9 * GIB, 40200896512),
        ("none", 9 * GIB, 0),
    ],
)
def test_only_the_weights_are_wired_unless_asked(wired: Any, loaded: int, expected: int) -> None:
    policy = MemoryPolicy.choose(mac("M4 Pro"), wired=wired)
    assert policy.wired_bytes(loaded) == expected


@pytest.mark.parametrize("wired", ["weights", "all", "none"])
@pytest.mark.parametrize("info", [H100, CPU])
def test_nothing_is_wired_without_metal(info: dict[str, str | int], wired: Any) -> None:
    assert MemoryPolicy.choose(DeviceMemory.of(info, RAM), wired=wired).wired_bytes(GIB) == 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is asked of MLX, which does nothing."""
    made: list[tuple[str, int]] = []
    for name in ("set_memory_limit", "set_cache_limit", "set_wired_limit"):
        monkeypatch.setattr(mx, name, lambda size, name=name: made.append((name, size)))
    monkeypatch.setattr(mx, "clear_cache", lambda: made.append(("clear_cache", 0)))
    monkeypatch.setattr(mx, "get_active_memory", lambda: 3 * GIB)
    return made


def test_a_mac_gets_all_three_limits(calls: list[tuple[str, int]]) -> None:
    policy = MemoryPolicy.choose(mac("M4 Pro"), 20 * GIB)
    policy.set_limits()
    policy.wire()
    assert calls == [
        ("set_memory_limit", 23 * GIB),  # 3 GiB are those of another model
        ("set_cache_limit", int(0.03 * 20 * GIB)),
        ("clear_cache", 0),
        ("set_wired_limit", 3 * GIB),
    ]


def test_a_cpu_gets_a_memory_limit_only(calls: list[tuple[str, int]]) -> None:
    policy = MemoryPolicy.choose(DeviceMemory.of(CPU, RAM), 20 * GIB)
    policy.set_limits()
    policy.wire()
    assert calls == [("set_memory_limit", 23 * GIB), ("clear_cache", 0)]
