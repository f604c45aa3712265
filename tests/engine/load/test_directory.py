"""Damaged, incomplete and unsafe model directories are refused by file name. LIMITS 107, 108."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budmlx.engine.load.directory import (
    check_model_dir,
    check_safetensors,
    known_architectures,
    model_files,
)
from budmlx.errors import ModelLoadError
from tests.safetensors_file import CONFIG, header, safetensors

GOOD = safetensors()
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def model(path: Path, config: dict[str, Any] | None = None, **files: bytes) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def sharded(path: Path, listed: list[str], present: list[str]) -> Path:
    index = {"weight_map": {f"layer.{i}": name for i, name in enumerate(listed)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in present:
        (path / name).write_bytes(GOOD)
    return model(path)


def refusal(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        check_model_dir(path, "some/model")
    assert caught.value.message.startswith("some/model")
    return caught.value.message


def test_good_directories_pass(tmp_path: Path) -> None:
    check_model_dir(model(tmp_path, model__safetensors=GOOD), "m")


def test_good_shards_pass(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    check_model_dir(sharded(tmp_path, names, names), "m")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends inside its header, after 0 bytes"),
        (GOOD[:5], "ends inside its header, after 5 bytes"),
        (GOOD[:30], "ends inside its header, after 30 bytes"),
        (GOOD[:-1], f"has {len(GOOD) - 1:,} bytes, its header promises {len(GOOD):,}"),
        (GOOD + b"\0", f"has {len(GOOD) + 1:,} bytes, its header promises {len(GOOD):,}"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html><body>Sign in</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (header({"a": {**F32, "data_offsets": [0, 4]}}) + bytes(4), "not readable"),
        (header({"a": {**F32, "shape": [10**10]}}) + bytes(8), "not readable"),
        (header({"a": 5}), "not readable"),
        ((8).to_bytes(8, "little") + b"[[[[[[[[", "not readable"),
        ((8).to_bytes(8, "little") + b"[      ]", "not readable"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    message = refusal(model(tmp_path, model__safetensors=content))
    assert "model.safetensors" in message
    assert reason in message


@given(cut=st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_noticed(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(GOOD[:cut])
    with pytest.raises(ModelLoadError, match=r"cut\.safetensors"):
        check_safetensors(path, "m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
TENSOR = st.fixed_dictionaries({"dtype": st.just("F32"), "shape": JSON, "data_offsets": JSON})


@given(text=st.binary(max_size=200) | JSON | st.dictionaries(st.text(max_size=3), TENSOR | JSON))
@example(text=b"[" * 100_000)
@example(text=b'{"a": {"dtype": "X", "shape": [], "data_offsets": [0, 1e999]}}')
def test_any_header_is_accepted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: object
) -> None:
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    with contextlib.suppress(ModelLoadError):
        check_safetensors(path, "m")


def test_header_whose_length_looks_like_a_tag_passes(tmp_path: Path) -> None:
    for length in (0x3C00, 0x3C20):
        text = json.dumps({"a": F32}).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + text.ljust(length) + bytes(8))
        check_safetensors(path, "m")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    names = [f"model-{i}.safetensors" for i in range(6)]
    message = refusal(sharded(tmp_path, names, names[:1]))
    expected = (
        "model-1.safetensors, model-2.safetensors, model-3.safetensors and 2 more are missing"
    )
    assert expected in message


def test_extra_shard_is_named(tmp_path: Path) -> None:
    message = refusal(
        sharded(tmp_path, ["model-1.safetensors"], ["model-1.safetensors", "model-9.safetensors"])
    )
    assert "model-9.safetensors is not part of the model" in message


def test_index_cannot_point_outside(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "model-x.safetensors").write_bytes(GOOD)
    assert "outside" in refusal(sharded(inside, ["../model-x.safetensors"], []))


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": 3}'])
def test_broken_index_is_named(tmp_path: Path, index: bytes) -> None:
    path = model(tmp_path, model__safetensors=GOOD, model__safetensors__index__json=index)
    assert "model.safetensors.index.json" in refusal(path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff", b"{}", b'{"model_type": "../x"}'])
def test_broken_config_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert "config.json" in refusal(tmp_path)


def test_missing_config_is_named(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


def test_code_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path, {**CONFIG, "model_file": "model.py"}, model__safetensors=GOOD)
    assert "never does" in refusal(path)


def test_code_is_not_needed_for_a_known_architecture(tmp_path: Path) -> None:
    mapping = {"auto_map": {"AutoModel": "modeling.Model"}}
    check_model_dir(model(tmp_path, {**CONFIG, **mapping}, model__safetensors=GOOD), "m")
    path = model(tmp_path, {"model_type": "novel", **mapping}, model__safetensors=GOOD)
    assert "no architecture 'novel'" in refusal(path)


def test_known_architectures_include_remapped_ones() -> None:
    assert {"llama", "mistral", "kimi_k2", "qwen3"} <= known_architectures()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("pytorch_model__bin", "mlx_lm.convert"),
        ("model__pt", "mlx_lm.convert"),
        ("model__gguf", "llama.cpp"),
        ("consolidated__safetensors", "no model*.safetensors"),
    ],
)
def test_other_formats_are_explained(tmp_path: Path, file: str, reason: str) -> None:
    assert reason in refusal(model(tmp_path, **{file: GOOD}))


def test_what_plugins_are_told_is_read_safely(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert model_files(tmp_path).preprocessor == {}
    for text, words in (("{bad", "is not JSON"), ("[]", "does not hold a JSON object")):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(ModelLoadError, match=f"preprocessor_config.json {words}"):
            model_files(tmp_path)
