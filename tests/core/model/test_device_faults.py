"""Faults of the device are told from errors of the work at hand by what MLX says."""

from __future__ import annotations

import pytest

from budmlx.core.model.device_faults import ends_the_process, is_device_fault

# Words of MLX 0.32's back ends, as their libraries and reports of crashes have them.
FAULTS = [
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).",
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity).",
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout).",
    "Innocent Victim (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
    "Ignored (00000004:kIOAccelCommandBufferCallbackErrorSubmissionsIgnored)",
    "[Event::wait] Timed out",
    "[Event::Event] Failed to create Metal shared event.",
    "[metal::CommandEncoder] Failed to make new command queue.",
    "[metal::Device] Unable to create new command buffer",
    "[metal::malloc] Resource limit (499000) exceeded.",
    "cudaMallocManaged failed: an illegal memory access was encountered.",
    "cudaMallocAsync(&data, size, stream) failed: out of memory",
    "cudaPeekAtLastError() failed: out of memory",
    "cudaGraphLaunch(graph_exec, stream_) failed: unspecified launch failure",
    "cudaMemcpyAsync( gpu_ptr<void>(out), out_ptr, nbytes, cudaMemcpyDefault, encoder.stream()) "
    "failed: invalid argument",
    "cuModuleGetFunction(&kernel, module_, mangled.c_str()) failed: invalid device context",
    "cublasLtMatmulDescCreate(&matmul_desc_, compute_type, scale_type) failed with code: 1.",
    "cudnnCreate(&storage.handle) failed: CUDNN_STATUS_INTERNAL_ERROR.",
    "graph.encode_graph(encoder, variant_pack) failed: CUDNN_STATUS_EXECUTION_FAILED.",
]
OTHERS = [
    "[malloc] Unable to allocate 1073741824 bytes.",
    "[metal::malloc] Attempting to allocate 83404284800 bytes which is greater than the maximum "
    "allowed buffer size of 77309411328 bytes.",
    "[metal::Device] Unable to load kernel steel_gemm_fused_nn",
    "[metal::set_wired_limit] Setting a wired limit larger than the maximum working set size is "
    "not allowed.",
    "[broadcast_shapes] Shapes (2,3) and (4,5) cannot be broadcast.",
    "[quantized_matmul] Only real floating types are supported but x has int32.",
    "Can not find algorithm for matmul.",
    "SVD has no CUDA implementation.",
    "curl failed",
    "custom kernel failed",
    "The model failed: cudaMalloc(&data, size) is not my name",
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "boom",
    "",
]


@pytest.mark.parametrize("text", FAULTS)
def test_what_a_back_end_says_of_submitted_work_is_a_fault(text: str) -> None:
    assert is_device_fault(RuntimeError(text))


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_belong_to_the_work_at_hand(text: str) -> None:
    assert not is_device_fault(RuntimeError(text))


def test_mlx_raises_runtime_errors() -> None:
    for kind in (ValueError, MemoryError, KeyError):
        assert not is_device_fault(kind(FAULTS[0]))


def test_one_fault_leaves_no_way_to_go_on() -> None:
    assert [text for text in FAULTS if ends_the_process(RuntimeError(text))] == [FAULTS[4]]
