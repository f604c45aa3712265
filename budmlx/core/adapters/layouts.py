"""Layouts of adapter directories: mlx-lm's and PEFT's names, ranks and scales."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from budmlx.errors import ModelLoadError

CONFIG = "adapter_config.json"
MLX_LM, PEFT = "mlx-lm", "PEFT"
WEIGHTS = {MLX_LM: "adapters.safetensors", PEFT: "adapter_model.safetensors"}

Half = Literal["a", "b"]


def refusal(path: Path, file: str, problem: str) -> ModelLoadError:
    """The error about a file of the adapter in `path`. problem: a sentence without its end."""
    return ModelLoadError(f"The adapter in {path} cannot be used: {file}: {problem}.")


_MLX_NAME = re.compile(r"(?P<place>.+)\.lora_(?P<half>[ab])")
_PEFT_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<place>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight"
)
# Parts of names that are of other kinds of adapters.
_FOREIGN = {
    "lora_magnitude_vector": "is of DoRA, which cannot be used yet",
    "lora_embedding_": "is for an embedding, which cannot have an adapter",
    "modules_to_save": "replaces a layer of the model, which rows of a batch cannot do",
    ".base_layer.": "replaces numbers of the model, which rows of a batch cannot do",
    ".lora_B.bias": "is a bias of an adapter, which cannot be used",
}
# Keys of PEFT's whose adapters compute something else than the product of two matrices.
_OTHER_KINDS = {
    "use_dora": "DoRA cannot be used yet",
    "use_qalora": "QALoRA cannot be used",
    "use_bdlora": "block-diagonal LoRA cannot be used",
    "alora_invocation_tokens": "activated LoRA (aLoRA), which changes only what comes after some "
    "tokens, cannot be used",
    "layer_replication": "the model's layers cannot be repeated",
}
# Values of `init_lora_weights` with which training begins at the plain model. The others take
# something out of its weights first, so that the adapter belongs to what is left of them.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files in `path` name things. kind: `MLX_LM` or `PEFT`."""

    path: Path
    kind: str
    config: Mapping[str, Any]

    @property
    def weights(self) -> str:
        """The name of the file with the tensors."""
        return WEIGHTS[self.kind]

    @property
    def base(self) -> str:
        """The model that it was made for, as the configuration says; empty if it does not."""
        base = self.config.get("model" if self.kind == MLX_LM else "base_model_name_or_path")
        return base if isinstance(base, str) else ""

    def place(self, tensor: str) -> tuple[str, Half]:
        """The path of the layer that a tensor belongs to, and which of the two it is.

        Raises:
            ModelLoadError: it is no matrix of LoRA.
        """
        pattern = _MLX_NAME if self.kind == MLX_LM else _PEFT_NAME
        match = pattern.fullmatch(tensor)
        if match is not None:
            return match["place"], "a" if match["half"] in "aA" else "b"
        reason = next((why for part, why in _FOREIGN.items() if part in tensor), "")
        if self.kind == MLX_LM and tensor.endswith(".m"):
            reason = _FOREIGN["lora_magnitude_vector"]
        raise self.refusal(self.weights, f"{tensor} {reason or 'is no tensor of a LoRA adapter'}")

    def tensor(self, place: str, half: str) -> str:
        """The name of a tensor of the layer at `place`, as this layout has it."""
        if self.kind == MLX_LM:
            return f"{place}.lora_{half}"
        return f"base_model.model.{place}.lora_{half.upper()}.weight"

    def strength(self, place: str) -> tuple[int, float]:
        """The rank of the update of a layer, and the scale that it is multiplied by."""
        if self.kind == MLX_LM:
            own = self.config["lora_parameters"]
            return self._whole(own, "rank", "lora_parameters."), self._number(
                own, "scale", "lora_parameters."
            )
        rank = self._matching("rank_pattern", place, self._whole(self.config, "r"))
        alpha = self._matching("alpha_pattern", place, self._number(self.config, "lora_alpha"))
        rslora = self.config.get("use_rslora") is True
        return int(rank), float(alpha) / (math.sqrt(rank) if rslora else rank)

    def _matching(self, pattern: str, place: str, default: float) -> float:
        """The value of the first key of a pattern that is the end of a layer's path."""
        patterns = self.config.get(pattern) or {}
        if not isinstance(patterns, Mapping):
            raise self.refusal(CONFIG, f"{pattern} is no object")
        for key in patterns:
            try:
                if re.match(rf"(.*\.)?({key})$", place):
                    check = self._whole if pattern == "rank_pattern" else self._number
                    return check(patterns, key, f"{pattern}.")
            except re.error as error:
                raise self.refusal(CONFIG, f"{pattern}.{key} is no pattern") from error
        return default

    def _whole(self, values: Mapping[str, Any], key: str, prefix: str = "") -> int:
        value = values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refusal(CONFIG, f"{prefix}{key} must be a whole number of at least 1")
        return value

    def _number(self, values: Mapping[str, Any], key: str, prefix: str = "") -> float:
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise self.refusal(CONFIG, f"{prefix}{key} must be a number")

    def refusal(self, file: str, problem: str) -> ModelLoadError:
        """See `refusal`."""
        return refusal(self.path, file, problem)


def layout_of(path: Path, config: Mapping[str, Any]) -> Layout:
    """The layout of a directory with this configuration.

    Raises:
        ModelLoadError: it is no LoRA adapter; names the key at fault.
    """
    kind = PEFT if "peft_type" in config else MLX_LM
    layout = Layout(path, kind, config)
    problem = _peft_problem(config) if kind == PEFT else _mlx_problem(config)
    if problem:
        raise layout.refusal(CONFIG, problem)
    return layout


def _mlx_problem(config: Mapping[str, Any]) -> str:
    """Why a configuration of mlx-lm's cannot be used; else empty."""
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        return (
            "fine_tune_type is full: a whole fine-tuned model cannot share a batch with its base; "
            "fuse it with `mlx_lm.fuse` and serve the result"
        )
    if kind != "lora":
        return f"fine_tune_type is {str(kind)[:80]!r}, and only lora can be used"
    if not isinstance(config.get("lora_parameters"), Mapping):
        return "it has no lora_parameters, so it is neither mlx-lm's nor PEFT's"
    return ""


def _peft_problem(config: Mapping[str, Any]) -> str:
    """Why a configuration of PEFT's cannot be used; else empty."""
    if config["peft_type"] != "LORA":
        return f"peft_type is {str(config['peft_type'])[:80]!r}, and only LORA can be used"
    for key, why in _OTHER_KINDS.items():
        if config.get(key):
            return f"{key} is set, and {why}"
    beginning = config.get("init_lora_weights", True)
    if beginning not in _PLAIN_BEGINNINGS:
        return (
            f"init_lora_weights is {str(beginning)[:80]!r}: it was trained on weights that were "
            "changed first, and is wrong beside the plain model; convert it with the argument "
            "path_initial_model_for_weight_conversion of PEFT's save_pretrained"
        )
    if config.get("bias", "none") != "none":
        return "bias must be none, since rows of a batch share the model's biases"
    return ""
