"""Models are found where the hub and LM Studio keep them; what is broken hides nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.errors import ModelNotFoundError
from tests.model_folders import (
    LLAMA,
    SHARDS,
    folder,
    model_files,
    sharded_files,
    snapshot,
    tree_list,
)
from tests.safetensors_file import header, safetensors

GOOD = model_files()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def cache(home: Path) -> Path:
    return home / ".cache" / "huggingface" / "hub"


def library(home: Path, *models_dirs: Path) -> Library:
    return Library(models_dirs, hub_cache=home / ".cache" / "huggingface" / "hub")


def listed(library: Library) -> dict[str, LocalModel]:
    found = library.models()
    assert len({model.name for model in found}) == len(found)
    return {model.name: model for model in found}


def test_every_place_is_looked_at(home: Path, cache: Path) -> None:
    path = snapshot(cache, "org/in-hub", GOOD)
    folder(home / ".lmstudio" / "models" / "org" / "in-studio", GOOD)
    folder(home / ".cache" / "lm-studio" / "models" / "org" / "in-old-studio", GOOD)
    folder(home / "one" / "flat", GOOD)
    folder(home / "two" / "publisher" / "nested", GOOD)
    folder(home / "three", GOOD)
    snapshot(home / "two", "org/moved--cache", GOOD)
    found = listed(library(home, home / "one", home / "two", home / "three"))
    assert {name: model.place for name, model in found.items()} == {
        "org/in-hub": "hub",
        "org/in-studio": "lm-studio",
        "org/in-old-studio": "lm-studio",
        "flat": "models-dir",
        "publisher/nested": "models-dir",
        "three": "models-dir",
        "org/moved--cache": "models-dir",
    }
    assert all(model.servable and model.complete for model in found.values())
    assert found["org/in-hub"].path == path and found["org/in-hub"].revision == path.name
    assert found["flat"].revision == ""


def test_lm_studio_tells_where_its_folders_are(home: Path) -> None:
    (home / ".lmstudio-home-pointer").write_text(f"{home}/elsewhere\n")
    folder(home / "disk" / "org" / "chosen", GOOD)
    folder(home / "elsewhere" / "models" / "org" / "usual", GOOD)
    settings = home / "elsewhere" / "settings.json"
    settings.write_text(json.dumps({"downloadsFolder": str(home / "disk")}))
    assert listed(library(home)).keys() == {"org/chosen", "org/usual"}
    for text in ("[]", "{", '{"downloadsFolder": 5}', '{"downloadsFolder": "/no/where"}'):
        settings.write_text(text)
        assert listed(library(home)).keys() == {"org/usual"}


def test_a_model_is_described_by_its_files(home: Path, cache: Path) -> None:
    packed = {"dtype": "U32", "shape": [4, 8], "data_offsets": [0, 128]}
    scales = {"dtype": "BF16", "shape": [4, 1], "data_offsets": [128, 136]}
    biases = {"dtype": "BF16", "shape": [4, 1], "data_offsets": [136, 144]}
    norm = {"dtype": "F16", "shape": [4], "data_offsets": [144, 152]}
    named = {"a.weight": packed, "a.scales": scales, "a.biases": biases, "norm.weight": norm}
    config = {**LLAMA, "quantization": {"bits": 4, "group_size": 64}}
    files = model_files(config, model__safetensors=header(named) + bytes(152))
    snapshot(cache, "org/quantized", files)
    (model,) = library(home).models()
    assert model.size == sum(map(len, files.values()))
    assert model.weights == 152
    assert model.parameters == 4 * 64 + 4
    assert (model.dtype, model.architecture, model.context) == ("BF16", "llama", 4096)
    assert model.quantization is not None and str(model.quantization) == "4 bit"
    assert (model.quantization.bits, model.quantization.group_size) == (4, 64)
    assert model.kind == "chat"
    assert json.loads(json.dumps(model.as_json()))["quantization"]["bits"] == 4


def test_two_shards_are_one_model(home: Path, cache: Path) -> None:
    snapshot(cache, "org/sharded", sharded_files())
    (model,) = library(home).models()
    assert model.servable and model.weights == 2 * 256 * 8 * 4


def test_the_branch_main_is_the_revision(home: Path, cache: Path) -> None:
    old = snapshot(cache, "org/model", model_files(README__md=b"old"), ref=None)
    main = snapshot(cache, "org/model", GOOD)
    later = snapshot(cache, "org/model", model_files(README__md=b"later"), ref="v2")
    os.utime(old, (1, 1))
    os.utime(later, (2**32, 2**32))
    assert library(home).find("org/model").revision == main.name
    (cache / "models--org--model" / "refs" / "main").write_text("0" * 40)
    assert library(home).find("org/model").revision == later.name


def test_of_several_copies_the_first_that_can_be_served_counts(home: Path, cache: Path) -> None:
    first = folder(home / "one" / "org" / "model", GOOD)
    second = folder(home / "two" / "org" / "model", GOOD)
    hub = snapshot(cache, "org/model", GOOD)
    studio = folder(home / ".lmstudio" / "models" / "org" / "model", GOOD)
    both = library(home, home / "one", home / "two")
    model = both.find("org/model")
    assert (model.path, model.also) == (first, (second, hub, studio))
    (first / "model.safetensors").unlink()
    (second / "tokenizer.json").unlink()
    model = both.find("org/model")
    assert (model.path, model.place, model.also) == (hub, "hub", (first, second, studio))
    for path in (hub, studio):
        (path / "config.json").unlink()
    assert both.find("org/model").path == first


def test_the_same_directory_is_found_once(home: Path) -> None:
    folder(home / ".lmstudio" / "models" / "org" / "model", GOOD)
    (home / ".cache").mkdir()
    (home / ".cache" / "lm-studio").symlink_to(home / ".lmstudio")
    (model,) = library(home, home / ".lmstudio" / "models").models()
    assert model.place == "models-dir" and model.also == ()


BROKEN = {
    "no-config": (model_files(config__json=None), "has no config.json"),
    "gguf": ({"some.Q4_K_M.gguf": b"GGUF", "mmproj.gguf": b"GGUF"}, "has GGUF weights"),
    "pickle": (
        model_files(model__safetensors=None, pytorch_model__bin=b""),
        "only in pickle files",
    ),
    "adapter": ({"adapter_config.json": b"{}", "adapters.safetensors": b""}, "is an adapter"),
    "pictures": ({"model_index.json": b"{}", "x.safetensors": b""}, "pipeline of several models"),
    "cut": (model_files(model__safetensors=safetensors()[:-1]), "model.safetensors is damaged"),
    "shard": (
        {name: data for name, data in sharded_files().items() if name != SHARDS[1]},
        f"{SHARDS[1]} is missing",
    ),
    "words": (model_files(tokenizer__json=None), "has no tokenizer"),
    "novel": (model_files({**LLAMA, "model_type": "novel"}), "mlx-lm lacks: 'novel'"),
    "bert": (model_files({"model_type": "bert"}), "is an encoder (bert)"),
    "bnb": (
        model_files({**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}),
        "cannot read (bitsandbytes)",
    ),
    "eagle": (
        model_files({**LLAMA, "architectures": ["LlamaForCausalLMEagle3"]}),
        "is a draft model",
    ),
    "json": (model_files(config__json=b"{"), "config.json is not JSON"),
    "code": (model_files({**LLAMA, "model_file": "evil.py"}), "never does"),
}
INCOMPLETE = {"cut", "shard", "words", "json"}


def test_a_broken_model_is_listed_with_the_reason_among_good_ones(home: Path) -> None:
    place = home / "models"
    for name, (files, _) in BROKEN.items():
        folder(place / "org" / name, files)
    for name in ("a", "m", "z"):
        folder(place / name, GOOD)
    (place / "org" / "loop").symlink_to(place)
    (place / "org" / "self").symlink_to("self")
    (place / "dangling").symlink_to("nowhere")
    (place / "empty" / "deep" / "deeper").mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    found = listed(library(home, place))
    assert {name for name, model in found.items() if model.servable} == {"a", "m", "z"}
    assert found.keys() == {"a", "m", "z"} | {f"org/{name}" for name in BROKEN}
    for name, (_, reason) in BROKEN.items():
        model = found[f"org/{name}"]
        assert reason in model.problem
        assert model.problem.startswith(f"org/{name}") and "\n" not in model.problem
        assert model.complete is (name not in INCOMPLETE), name


def test_a_folder_that_cannot_be_read_hides_no_other(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder(home / "models" / "good", GOOD)
    (home / "file").write_text("")
    # A name that is too long fails as a folder without permission does, for root, too.
    too_long = home / ("x" * 300)
    found = Library(
        [home / "models", home / "file", too_long], hub_cache=home / "file", lm_studio=[too_long]
    )
    assert listed(found).keys() == {"good"}
    assert "there is no directory" in caplog.text


def test_half_of_a_download_is_not_complete(home: Path, cache: Path) -> None:
    begun = cache / "models--org--begun" / "blobs"
    begun.mkdir(parents=True)
    (begun / "0123.abcd.incomplete").write_bytes(b"part")
    early = snapshot(cache, "org/early", {"config.json": GOOD["config.json"]})
    (early.parent.parent / "blobs" / "0123.incomplete").write_bytes(b"part")
    listed_but_missing = snapshot(cache, "org/listed", GOOD)
    more = {**GOOD, "chat_template.jinja": b"", "README.md": b"", "onnx/x.json": b""}
    tree_list(listed_but_missing, more)
    dead = snapshot(cache, "org/dead", GOOD)
    (dead / "model.safetensors").resolve().unlink()
    (cache / "models--org--asked" / "refs").mkdir(parents=True)
    (cache / "models--org--asked" / "refs" / "main").write_text("0" * 40)
    whole = snapshot(cache, "org/whole", GOOD)
    tree_list(whole, {**GOOD, "README.md": b"", "pytorch_model.bin": b""})
    (whole.parent.parent / "blobs" / "old.incomplete").write_bytes(b"part")
    found = listed(library(home))
    assert found.keys() == {"org/begun", "org/early", "org/listed", "org/dead", "org/whole"}
    assert found["org/whole"].servable and found["org/whole"].complete
    for name in ("begun", "early", "listed", "dead"):
        assert not found[f"org/{name}"].complete, name
    assert found["org/listed"].problem == (
        "org/listed is not completely downloaded (chat_template.jinja is missing). "
        "Complete it with: budmlx pull org/listed"
    )
    assert "budmlx pull org/begun" in found["org/begun"].problem
    assert "its link leads nowhere" in found["org/dead"].problem


def test_files_are_read_again_only_when_one_changed(
    home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = snapshot(cache, "org/model", GOOD)
    found = library(home)
    assert found.find("org/model").context == 4096
    opened: list[str] = []
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: opened.append(self.name) or self.open("rb").read()
    )
    assert found.find("org/model").context == 4096 and opened == []
    config = (path / "config.json").resolve()
    config.write_text(json.dumps({**LLAMA, "max_position_embeddings": 512}))
    assert found.find("org/model").context == 512 and "config.json" in opened
    (path / "model.safetensors").unlink()
    assert not found.find("org/model").servable


def test_an_unknown_name_is_told_what_to_do(home: Path, cache: Path) -> None:
    snapshot(cache, "mlx-community/Qwen3-4B-4bit", GOOD)
    snapshot(cache, "org/other", GOOD)
    found = library(home)
    messages = {}
    for name in ("Qwen3-4B-4bit", "mlx-community/qwen3-4b-4bits", "new/model", "x", "../hub"):
        with pytest.raises(ModelNotFoundError) as caught:
            found.find(name)
        messages[name] = caught.value.message
    for name in ("Qwen3-4B-4bit", "mlx-community/qwen3-4b-4bits"):
        assert "Did you mean mlx-community/Qwen3-4B-4bit?" in messages[name]
    assert messages["new/model"].endswith("Fetch it with: budmlx pull new/model")
    assert messages["x"].endswith("See: budmlx models")


def test_files_tell_what_kind_of_model_it_is(home: Path) -> None:
    silent = model_files(tokenizer_config__json=b"{}")
    kinds = {
        "chat": GOOD,
        "template": {**silent, "chat_template.jinja": b"{{ messages }}"},
        "base": silent,
        "embedding": {**GOOD, "1_Pooling/config.json": b"{}"},
        "bert": model_files({"model_type": "xlm-roberta"}),
        "draft": model_files({**LLAMA, "architectures": ["Qwen3DFlashDraftModel"]}),
    }
    for name, files in kinds.items():
        folder(home / "models" / name, files)
    found = listed(library(home, home / "models"))
    assert {name: model.kind for name, model in found.items()} == {
        "chat": "chat",
        "template": "chat",
        "base": "unknown",
        "embedding": "embedding",
        "bert": "embedding",
        "draft": "draft",
    }
    assert "is a draft model" in found["draft"].problem


def test_architectures_of_plugins_count(home: Path) -> None:
    path = folder(home / "novel", model_files({**LLAMA, "model_type": "novel"}))
    assert not library(home).at(path).servable
    assert Library(hub_cache=home, architectures=["novel"]).at(path).servable


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
SAID = ("architectures", "model_type", "quantization", "quantization_config", "text_config")
SAID += ("max_position_embeddings", "auto_map", "model_file")
TENSOR = st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "U32", "x"]), "shape": JSON})
NAMES = st.sampled_from(["a.weight", "a.scales", "a.biases", "b"])


@given(
    config=st.dictionaries(st.sampled_from(SAID), JSON) | JSON,
    tensors=st.dictionaries(NAMES, TENSOR),
    tokenizer=JSON,
)
def test_whatever_files_say_a_model_is_described(
    tmp_path_factory: pytest.TempPathFactory, config: Any, tensors: Any, tokenizer: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    if isinstance(config, dict):
        config = {**LLAMA, **config}
    named = {name: {**tensor, "data_offsets": [0, 0]} for name, tensor in tensors.items()}
    files = model_files(
        config,
        model__safetensors=header(named),
        tokenizer_config__json=json.dumps(tokenizer).encode(),
    )
    model = Library(hub_cache=path).at(folder(path, files))
    assert model.size == sum(map(len, files.values()))
    assert model.servable == (model.problem == "")
    assert model.servable or model.problem.startswith("any")
    json.dumps(model.as_json())


def test_a_path_is_no_name(home: Path) -> None:
    path = folder(home / "mine", GOOD)
    found = library(home)
    assert found.at(path).place == "path" and found.at(path).name == "mine"
    assert found.lookup(str(path)) is None
    with pytest.raises(ModelNotFoundError):
        found.find(str(path))


def test_mlx_is_not_imported() -> None:
    code = (
        "import sys; from budmlx.engine.load.library.library import Library; Library().models();"
        "print(sorted({'mlx', 'mlx_lm', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
