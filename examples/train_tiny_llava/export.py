"""Writes the trained weights as an MLX model directory in the layout of LLaVA 1.5.

The language model is quantized to 8 bits; tower and projector stay in float16.

    python export.py --out ../../plugins/budmlx-llava/budmlx_llava/assets/tiny

Needs only budmlx: weights are read through `weights.npz`, which finetune.py writes beside its
checkpoint.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Tokenizer

HERE = Path(__file__).parent
CHAT_MODEL = HERE.parents[1] / "budmlx" / "assets" / "tiny"
GROUP = 64
IMAGE_TOKEN = "<image>"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def config_of(tower: dict[str, int], vocabulary: int) -> dict[str, object]:
    """config.json: the chat model's as `text_config`, and what LLaVA adds."""
    chat = json.loads((CHAT_MODEL / "config.json").read_text())
    quantization = {"group_size": GROUP, "bits": 8}
    ends = {name: chat[name] for name in ("eos_token_id", "pad_token_id")}
    text = {name: value for name, value in chat.items() if not name.startswith("quantization")}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {**text, "vocab_size": vocabulary},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": tower["width"],
            "intermediate_size": tower["inner"],
            "num_hidden_layers": tower["layers"],
            "num_attention_heads": tower["heads"],
            "image_size": tower["image"],
            "patch_size": tower["patch"],
            "projection_dim": tower["width"],
            "num_channels": 3,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        "image_token_index": vocabulary - 1,
        "image_seq_length": (tower["image"] // tower["patch"]) ** 2,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **ends,
        "quantization": quantization,
        "quantization_config": quantization,
    }


def preprocessor_of(side: int) -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }


def processor_of(patch: int) -> dict[str, object]:
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": patch,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "image_token": IMAGE_TOKEN,
    }


def stored(name: str, value: np.ndarray) -> dict[str, mx.array]:
    """A weight as it is saved: quantized in the language model, float16 elsewhere."""
    if not name.startswith("language_model."):
        return {name: mx.array(value.astype(np.float16))}
    if value.ndim < 2:
        return {name: mx.array(value)}
    stem = name.removesuffix(".weight")
    weight, scales, biases = mx.quantize(mx.array(value), group_size=GROUP, bits=8)
    return {name: weight, f"{stem}.scales": scales, f"{stem}.biases": biases}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=HERE / "runs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(CHAT_MODEL / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False)])
    tokenizer.save(str(options.out / "tokenizer.json"))
    settings = json.loads((CHAT_MODEL / "tokenizer_config.json").read_text())
    template = (HERE / "chat_template.jinja").read_text()
    settings |= {"image_token": IMAGE_TOKEN, "chat_template": template}
    write_json(options.out / "tokenizer_config.json", settings)
    generation = (CHAT_MODEL / "generation_config.json").read_text()
    (options.out / "generation_config.json").write_text(generation)
    trained = np.load(options.run / "weights.npz")
    weights = {}
    for name in trained.files:
        weights |= stored(name, trained[name])
    mx.save_safetensors(str(options.out / "model.safetensors"), weights, metadata={"format": "mlx"})
    tower = json.loads((options.run / "tower.json").read_text())
    config = config_of(tower, tokenizer.get_vocab_size())
    write_json(options.out / "config.json", config)
    write_json(options.out / "preprocessor_config.json", preprocessor_of(tower["image"]))
    write_json(options.out / "processor_config.json", processor_of(tower["patch"]))
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
