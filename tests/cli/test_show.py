"""`budmlx show` on models that are not loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from budmlx import Engine
from budmlx.cli.app import app
from budmlx.engine.load.hub import SHIPPED_MODEL
from tests.model_folders import LLAMA, folder, model_files, snapshot
from tests.vision_plugin import write_vision_model

HEADS = {**LLAMA, "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 256}
HEADS |= {"num_key_value_heads": 2, "max_position_embeddings": 40_960}
# Of one token: keys and values, heads, their width, bytes of a float32, layers.
PER_TOKEN = 2 * 2 * 64 * 4 * 3
SETTINGS = """
[models."org/model"]
context_limit = 8192
default_sampling = {top_p = 0.9}
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def show(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["show", *arguments])


def facts(*arguments: str) -> dict[str, Any]:
    """What is known of a model, by its JSON."""
    done = show(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(shown: Result) -> dict[str, str]:
    """The lines that begin with a word for what they say."""
    assert shown.exit_code == 0, shown.stderr
    split = (line.strip().partition("  ") for line in shown.stdout.splitlines())
    return {name: value.strip() for name, _, value in split if value}


def test_the_demo_model_is_described_as_it_is_loaded() -> None:
    shown = lines(show(str(SHIPPED_MODEL)))
    assert shown["Path"] == str(SHIPPED_MODEL) and shown["Place"] == "path"
    assert shown["Architecture"] == "qwen3" and shown["Weights"].startswith("8 bit, ")
    assert shown["Tools"] == "yes, read as hermes" and shown["Reasoning"] == "yes, read as think"
    assert shown["Chat template"] == shown["System role"] == "yes" and shown["Images"] == "no"
    assert shown["Variables"] == "enable_thinking"
    assert shown["End tokens"].startswith("<|im_end|> (")
    found = facts(str(SHIPPED_MODEL))
    with Engine.load(SHIPPED_MODEL, warmup="off") as engine:
        assert found["weights"] == engine.status().budget.weights
        assert found["context_limit"] == engine.info.context_length
        assert tuple(map(int, found["text"]["end_tokens"])) == engine.info.eos_token_ids
        assert found["sampling"].keys() == engine.defaults.keys()
        assert found["speculation"] == engine.info.speculation
    assert facts(str(SHIPPED_MODEL), "--speculation=4")["speculation"] == "4"


def test_settings_of_the_model_count_and_where_they_come_from(cache: Path, tmp_path: Path) -> None:
    recommended = json.dumps({"temperature": 0.6, "top_p": 0.8, "top_k": "x"}).encode()
    files = model_files(HEADS, generation_config__json=recommended)
    path = snapshot(cache, "org/model", {**files, **tokenizer_files()})
    file = tmp_path / "budmlx.toml"
    file.write_text(SETTINGS)
    shown = show("org/model", "--config", str(file))
    values = lines(shown)
    assert values["Place"] == f"hub, revision {path.name}"
    assert values["Context"] == "8,192 tokens, of the model itself 40,960 tokens"
    assert values["temperature"] == "0.6  (generation_config.json)"
    assert values["top_p"] == f'0.9  ({file} [models."org/model"])'
    assert values["top_k"] == "0  (built in)"
    assert "generation_config.json: top_k" in shown.stdout
    assert values["8,192"].split()[:2] == ["24.0", "MiB"]
    assert facts("org/model")["context_limit"] == 40_960


def tokenizer_files() -> dict[str, bytes]:
    names = ("tokenizer.json", "tokenizer_config.json")
    return {name: (SHIPPED_MODEL / name).read_bytes() for name in names}


def test_memory_is_told_for_contexts_up_to_the_models(cache: Path) -> None:
    snapshot(cache, "org/model", {**model_files(HEADS), **tokenizer_files()})
    found = facts("org/model")
    weights = found["weights"]
    assert [(each["tokens"], each["kv"], each["total"]) for each in found["memory"]] == [
        (tokens, tokens * PER_TOKEN, tokens * PER_TOKEN + weights)
        for tokens in (4096, 16_384, 40_960)
    ]
    packed = facts("org/model", "--kv-bits=8")
    # A byte for each number, and a scale and a bias for 64 of them.
    assert packed["kv_bits"] == 8
    assert packed["memory"][0]["kv"] == 4096 * PER_TOKEN // 4 * (64 + 8) // 64


@pytest.mark.parametrize(
    ("config", "kv_bits", "words"),
    [
        ({**HEADS, "hidden_size": 20}, 8, "cannot keep its KV quantized"),
        ({**LLAMA, "model_type": "novel"}, None, "mlx-lm lacks: 'novel'"),
    ],
)
def test_what_does_not_fit_is_told(
    cache: Path, config: dict[str, Any], kv_bits: int | None, words: str
) -> None:
    snapshot(cache, "org/model", {**model_files(config), **tokenizer_files()})
    options = [] if kv_bits is None else [f"--kv-bits={kv_bits}"]
    shown = show("org/model", *options)
    assert shown.exit_code == 0 and words in shown.stdout
    assert facts("org/model", *options)["kv_bits"] is None


def test_a_model_that_cannot_be_used_is_shown_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    files = {**model_files(HEADS), **tokenizer_files(), "chat_template.jinja": b"{% if %}"}
    for name, changes, words in (
        ("template", {}, "chat template is not valid"),
        ("words", {"tokenizer.json": b"{"}, "tokenizer.json"),
        ("cut", {"model.safetensors": b""}, "model.safetensors"),
        ("gguf", None, "has GGUF weights"),
    ):
        content = {"x.gguf": b"GGUF"} if changes is None else {**files, **changes}
        path = folder(tmp_path / "models" / name, content)
        for each in (str(path), name):
            shown = show(each, f"--models-dir={tmp_path / 'models'}")
            assert shown.exit_code == 0, shown.stderr
            assert words in shown.stdout.splitlines()[-1], name
            assert "Chat template" not in shown.stdout
    unknown = show("gguff", f"--models-dir={tmp_path / 'models'}")
    assert unknown.exit_code == 1 and "Did you mean gguf?" in unknown.stderr


def test_models_of_tables_and_links_are_found(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    shutil.copytree(SHIPPED_MODEL, path)
    file = tmp_path / "budmlx.toml"
    file.write_text(f'[models.short]\nmodel = "{path}"\ntool_parser = "mistral"\n')
    found = facts("short", "--config", str(file))
    assert found["path"] == str(path) and found["text"]["tool_format"] == "mistral"
    assert facts(str(path), "--config", str(file))["text"]["tool_format"] == "mistral"


def test_a_plugin_brings_pictures(tmp_path: Path) -> None:
    file = tmp_path / "budmlx.toml"
    file.write_text('plugin = ["tests.vision_plugin"]\n')
    path = write_vision_model(tmp_path / "eyes")
    assert facts(str(path), "--config", str(file))["text"]["images"] is True


def test_mlx_is_not_imported() -> None:
    code = (
        "import sys; from budmlx.cli.app import app;"
        "app(['show', sys.argv[1]], standalone_mode=False);"
        "print(sorted({'mlx', 'mlx_lm', 'transformers'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(SHIPPED_MODEL)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("\n[]\n"), done.stderr
