"""Adapter directories that cannot be used are refused with the file and the tensor at fault."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.adapter_changes import load_adapters
from budmlx.core.adapters.files import AdapterFiles
from budmlx.core.model.model import Model
from budmlx.errors import ModelLoadError
from budmlx.protocol import AdapterSource
from tests.adapters import ATTENTION, as_peft, save, write_mlx
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import load
from tests.models import tiny_model_dir

Tensors = dict[str, mx.array]
Config = dict[str, Any]
Q = "model.layers.0.self_attn.q_proj"
QA, QB = f"{Q}.lora_a", f"{Q}.lora_b"
PA, PB = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"
MLX, PEFT = "adapters.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(ARCHITECTURES["qwen3_moe"])


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return load(path)


@pytest.fixture(scope="module")
def good(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    own = write_mlx(folder / "mlx", path, keys=ATTENTION)
    return {MLX: own, PEFT: as_peft(own, folder / "peft")}


def put(name: str, array: mx.array) -> Callable[[Config, Tensors], object]:
    return lambda config, tensors: tensors.update({name: array})


def say(**values: Any) -> Callable[[Config, Tensors], object]:
    return lambda config, tensors: config.update(values)


def spoilt(value: float) -> Callable[[Config, Tensors], object]:
    def change(config: Config, tensors: Tensors) -> None:
        array = np.array(tensors[QB])
        array[1, 2] = value
        tensors[QB] = mx.array(array)

    return change


EXPERT = "model.layers.0.mlp.switch_mlp.up_proj.lora_a"
LORA = {"rank": 8, "scale": 2.0}
SPOILT: list[tuple[str, Callable[[Config, Tensors], object], str]] = [
    (MLX, lambda config, tensors: tensors.pop(QB), f"{MLX}: {QB} is missing beside {QA}"),
    (MLX, spoilt(np.nan), f"{MLX}: {QB} holds NaN or infinity"),
    (MLX, spoilt(-np.inf), f"{MLX}: {QB} holds NaN or infinity"),
    (MLX, spoilt(3e38), f"{MLX}: {QB} is too large for the scale 2"),
    (MLX, put(QA, mx.zeros((64, 4))), f"{MLX}: {QA} has the rank 4, and adapter_config.json says"),
    (MLX, put(QA, mx.zeros((32, 8))), f"{MLX}: {QA} is 32 wide, and the model's layer 64"),
    (MLX, put(QB, mx.zeros((8, 64))), f"{MLX}: {QB} is 64 wide, and the model's layer 128"),
    (MLX, put(QB, mx.zeros((8,))), f"{MLX}: {QB} is no matrix: its shape is [8]"),
    (MLX, put(QB, mx.zeros((8, 128), mx.int32)), f"{MLX}: {QB} has numbers of the type I32"),
    (MLX, put(QB, mx.zeros((8, 128), mx.float16)), f"{MLX}: {QB} has numbers of another type"),
    (MLX, put(f"{Q}.m", mx.zeros((8,))), f"{MLX}: {Q}.m is of DoRA"),
    (MLX, put(f"{Q}.weight", mx.zeros((128, 64))), f"{MLX}: {Q}.weight is no tensor of a LoRA"),
    (MLX, put(EXPERT, mx.zeros((4, 8, 64))), f"{EXPERT.replace('_a', '_b')} is missing beside"),
    (MLX, lambda config, tensors: tensors.clear(), f"{MLX}: it holds no LoRA tensors"),
    (MLX, say(fine_tune_type="dora"), "adapter_config.json: fine_tune_type is 'dora'"),
    (MLX, say(fine_tune_type="full"), "adapter_config.json: fine_tune_type is full"),
    (MLX, say(lora_parameters={"rank": 8, "alpha": 16}), "lora_parameters.scale must be a number"),
    (MLX, say(lora_parameters={"scale": 8}), "lora_parameters.rank must be a whole number"),
    (MLX, say(lora_parameters=None), "adapter_config.json: it has no lora_parameters"),
    (PEFT, lambda config, tensors: tensors.pop(PA), f"{PEFT}: {PA} is missing beside {PB}"),
    (PEFT, say(peft_type="IA3"), "adapter_config.json: peft_type is 'IA3'"),
    (PEFT, say(use_dora=True), "adapter_config.json: use_dora is set"),
    (PEFT, say(bias="all"), "adapter_config.json: bias must be none"),
    (PEFT, say(r=4), "k_proj.lora_A.weight has the rank 8, and adapter_config.json says 4"),
    (PEFT, say(r=True), "adapter_config.json: r must be a whole number"),
    (PEFT, say(lora_alpha="8"), "adapter_config.json: lora_alpha must be a number"),
    (PEFT, say(rank_pattern={"q_proj": 2}), f"{PEFT}: {PA} has the rank 8, and"),
    (PEFT, say(alpha_pattern={"(": 2}), "adapter_config.json: alpha_pattern.( is no pattern"),
    (PEFT, say(layer_replication=[[0, 2]]), "adapter_config.json: layer_replication is set"),
    (PEFT, say(use_qalora=True), "adapter_config.json: use_qalora is set"),
    (PEFT, say(alora_invocation_tokens=[5, 6]), "alora_invocation_tokens is set, and activated"),
    *(
        (PEFT, say(init_lora_weights=name), f"adapter_config.json: init_lora_weights is '{name}'")
        for name in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "newer", "1")
    ),
    *(
        (
            PEFT,
            put(f"base_model.model.{name}", mx.zeros((8, 8))),
            f"{PEFT}: base_model.model.{what}",
        )
        for name, what in (
            (f"{Q}.lora_magnitude_vector", f"{Q}.lora_magnitude_vector is of DoRA"),
            (
                "model.embed_tokens.lora_embedding_A",
                "model.embed_tokens.lora_embedding_A is for an",
            ),
            ("lm_head.modules_to_save.weight", "lm_head.modules_to_save.weight replaces a layer"),
            (f"{Q}.base_layer.bias", f"{Q}.base_layer.bias replaces numbers"),
            (f"{Q}.lora_B.bias", f"{Q}.lora_B.bias is a bias"),
        )
    ),
]


@pytest.mark.parametrize(("file", "spoil", "words"), SPOILT)
def test_a_bad_directory_is_refused(
    model: Model,
    good: dict[str, Path],
    tmp_path: Path,
    file: str,
    spoil: Callable[[Config, Tensors], object],
    words: str,
) -> None:
    config = json.loads((good[file] / "adapter_config.json").read_text())
    tensors = mx.load(str(good[file] / file))
    spoil(config, tensors)
    save(tmp_path, file, config, tensors)
    with pytest.raises(ModelLoadError, match=re.escape(words)) as caught:
        load_adapters(model, [AdapterSource(str(tmp_path))])
    assert str(tmp_path) in caught.value.message
    assert not model.adapters.names and not model.adapters.nbytes


# Both halves are there, for something that is no linear layer of the model.
PLACES = {
    "model.embed_tokens": "is for a layer of the kind Embedding",
    "model.norm": "is for a layer of the kind RMSNorm",
    "model.layers.9.self_attn.q_proj": "the model has no layer model.layers.9",
    "model.layers.0.mlp.experts.3.up_proj": "is for experts",
    "model.layers.0.mlp.switch_mlp.up_proj": "is for experts",
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_for_no_linear_layer_is_refused(model: Model, tmp_path: Path, place: str) -> None:
    for rank, shape in ((3, (4, 8, 64)), (2, (8, 64))):
        tensors = {f"{place}.lora_a": mx.zeros(shape[:-2] + shape[:-3:-1])}
        tensors[f"{place}.lora_b"] = mx.zeros(shape)
        save(tmp_path, MLX, {"lora_parameters": LORA}, tensors)
        words = PLACES[place] if rank == 2 else "is for experts"
        with pytest.raises(ModelLoadError, match=rf"{MLX}: {place}.lora_a:? {words}"):
            load_adapters(model, [AdapterSource(str(tmp_path))])


def test_files_that_are_none(good: dict[str, Path], tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(ModelLoadError, match=words):
            AdapterFiles.read(tmp_path)

    refused(r"adapter_config\.json: there is no such file")
    (tmp_path / "adapter_config.json").write_text("{")
    refused(r"adapter_config\.json: it is not JSON")
    (tmp_path / "adapter_config.json").write_text("[]")
    refused(r"adapter_config\.json: it does not hold a JSON object")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_parameters": LORA}))
    refused(rf"{MLX}: there is no such file")
    (tmp_path / "adapter_model.bin").touch()
    refused(r"adapter_model\.bin is a pickle")
    (tmp_path / MLX).mkdir()
    refused(rf"{MLX}: it cannot be read")
    (tmp_path / MLX).rmdir()
    whole = (good[MLX] / MLX).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    (tmp_path / MLX).write_bytes(whole)
    AdapterFiles.read(tmp_path)
    # Cut short, too long, no header, an empty file, and headers that say something impossible.
    for bad in (whole[:-1], whole + b"0", whole[:start], whole[8:], b"", b"\xff" * 64):
        (tmp_path / MLX).write_bytes(bad)
        refused(rf"{MLX}: it is damaged")
    for key, value in (
        ("data_offsets", [0, 2**40]),
        ("data_offsets", [-64, 0]),
        ("data_offsets", [0.0, 64.0]),
        ("data_offsets", 5),
        ("shape", [-1, 8]),
        ("shape", [3, 3]),
        ("shape", "x"),
        ("dtype", ["F32"]),
    ):
        text = json.dumps({**header, QA: {**header[QA], key: value}}).encode()
        (tmp_path / MLX).write_bytes(len(text).to_bytes(8, "little") + text + whole[start:])
        refused(rf"{MLX}: it is damaged")


@pytest.mark.parametrize("beginning", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_training_that_began_at_the_plain_model(
    good: dict[str, Path], tmp_path: Path, beginning: object
) -> None:
    AdapterFiles.read(
        as_peft(good[MLX], tmp_path, init_lora_weights=beginning, alora_invocation_tokens=None)
    )


def test_ranks_and_scales_of_peft(good: dict[str, Path], tmp_path: Path) -> None:
    patterns = {"lora_alpha": 8, "alpha_pattern": {"0.self_attn.q_proj": 4, "k_proj": 1}}
    plain = AdapterFiles.read(as_peft(good[MLX], tmp_path / "a", **patterns))
    stable = AdapterFiles.read(as_peft(good[MLX], tmp_path / "b", use_rslora=True, **patterns))
    for files, divisor in ((plain, 8), (stable, 8**0.5)):
        scales = {place: update.scale * divisor for place, update in files.updates.items()}
        assert scales[Q] == pytest.approx(4)
        assert scales[Q.replace("0", "1")] == pytest.approx(8)
        assert scales["model.layers.1.self_attn.k_proj"] == pytest.approx(1)


def test_the_digest_is_that_of_both_files(good: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((good[MLX] / "adapter_config.json").read_text())
    tensors = mx.load(str(good[MLX] / MLX))
    digests = []
    for number, (values, names) in enumerate(
        (({}, {}), ({"x": 1}, {}), ({}, {QB: tensors[QB] + 1}), ({}, {}))
    ):
        save(tmp_path / str(number), MLX, {**config, **values}, {**tensors, **names})
        digests.append(AdapterFiles.read(tmp_path / str(number)).digest)
    assert len(set(digests)) == 3 and digests[0] == digests[3]
    with pytest.raises(ModelLoadError, match="were changed"):
        AdapterFiles.read(tmp_path / "1", digests[0])
