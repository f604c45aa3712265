"""The digests of a model directory: their values are in files that outlive the program."""

from __future__ import annotations

import os
from pathlib import Path

from budmlx.model_identity import ModelIdentity
from budmlx.weight_digests import WeightDigests


def test_their_values_never_change(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model-1.safetensors").write_bytes(bytes(range(256)) * 80)
    (path / "model-2.safetensors").write_bytes(b"short")
    (path / "notes.txt").write_text("hello")
    for file in path.iterdir():
        os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    (path / "folder").mkdir()
    identity = ModelIdentity.read(path)
    digests = WeightDigests(path, tmp_path)
    assert identity.fingerprint(digests) == "fp_d26b4a81ff28"
    assert identity.fingerprint(digests, kv_bits=4) == "fp_09fcf21fadc6"
    assert identity.sampled(["1", "2"]) == (
        "a1cb1cca56a14a2d30416ebf10e67a1c21287121954f31ba1a92d7e77c1e93f9"
    )
    assert identity.listed() == "31ef74e7f06f7c647e5c123ca4a4e4aca354c4c24daef37baecdd063baa6996b"
