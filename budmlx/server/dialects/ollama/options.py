"""`options` of a request: sampling parameters by Ollama's names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from budmlx.server.declared import described, within
from budmlx.server.generation_body import Stops
from budmlx.server.wire import Int, WireModel

NAMES = {
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repetition_window",
}
"""The sampling parameters that have other names here."""

WITHOUT_EFFECT = frozenset(
    {"num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram"}
    | {"use_mmap", "use_mlock", "vocab_only", "f16_kv", "logits_all", "penalize_newline"}
    | {"tfs_z", "mirostat", "mirostat_eta", "mirostat_tau"}
)
"""Options that change no answer here. No prompt is cut to `num_ctx`: too long a one gets 400."""


class Options(WireModel):
    """Sampling parameters. What is absent keeps the model's own default."""

    num_predict: Annotated[
        Int, Field(ge=-2, le=2**63 - 1), described("max_tokens", "-1, -2: no limit.")
    ] = -1
    temperature: Annotated[float | None, within("temperature"), described("temperature")] = None
    top_p: Annotated[float | None, within("top_p"), described("top_p")] = None
    top_k: Annotated[
        Int | None, Field(ge=-1, lt=2**31), described("top_k", "-1 is the same as 0.")
    ] = None
    min_p: Annotated[float | None, within("min_p"), described("min_p")] = None
    typical_p: Annotated[float | None, within("typical_p"), described("typical_p")] = None
    seed: Annotated[Int | None, within("seed"), described("seed", "-1: none.")] = None
    stop: Annotated[Stops, described("stop")] = []
    presence_penalty: Annotated[
        float | None, within("presence_penalty"), described("presence_penalty")
    ] = None
    frequency_penalty: Annotated[
        float | None, within("frequency_penalty"), described("frequency_penalty")
    ] = None
    repeat_penalty: Annotated[
        float | None, within("repetition_penalty"), described("repetition_penalty")
    ] = None
    repeat_last_n: Annotated[
        Int | None,
        Field(ge=-1, lt=2**31),
        Field(
            description="How many of the last tokens `repeat_penalty` looks at; 0: none, -1: all."
        ),
    ] = None

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that are said here, by our names."""
        said = {
            NAMES.get(name, name): value
            for name in self.model_fields_set & Options.model_fields.keys()
            if (value := getattr(self, name)) is not None
        }
        if said.get("max_tokens", 1) <= 0:
            del said["max_tokens"]
        if said.get("seed") == -1:
            del said["seed"]
        if said.get("top_k") == -1:
            said["top_k"] = 0
        window = said.get("repetition_window")
        if window == 0:
            said["repetition_penalty"] = 1.0
        elif window == -1:
            said["repetition_window"] = 0
        if "stop" in said:
            said["stop"] = tuple(said["stop"])
        return said
