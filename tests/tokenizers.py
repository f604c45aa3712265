"""Tiny real tokenizers of the families that models use, and model directories with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and <b>html</b> is [not] a | pipe.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 你好 世界 😀",
    "def f(x):\n    return {'a': [x < 1, x > 2]}\n\nuser assistant system tool start end im",
] * 3

SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def added_tokens(special: Sequence[str], markup: Sequence[str]) -> list[AddedToken]:
    return [
        *(AddedToken(token, special=True, normalized=False) for token in special),
        *(AddedToken(token, special=False, normalized=False) for token in markup),
    ]


def byte_level(special: Sequence[str] = SPECIAL, markup: Sequence[str] = MARKUP) -> Backend:
    """Byte-level BPE, as in GPT, Llama 3 and Qwen."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(added_tokens(special, markup))
    return backend


def sentencepiece_bpe(
    special: Sequence[str] = SPECIAL, markup: Sequence[str] = MARKUP, *, legacy: bool = False
) -> Backend:
    """BPE with byte fallback, as converted from SentencePiece (Llama 2, Mistral, Gemma).

    The special tokens are part of the model's vocabulary, as they are there.
    legacy: the space before the text is written by a normalizer, after each control token.
    """
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *special, *BYTES], show_progress=False
    )
    backend.train_from_iterator(CORPUS[:1] + CORPUS[2:3], trainer)
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = []
    backend = Backend.from_str(json.dumps(spec))
    if legacy:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.pre_tokenizer = None
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.add_tokens(added_tokens(special, markup))
    return backend


def unigram(special: Sequence[str] = SPECIAL, markup: Sequence[str] = MARKUP) -> Backend:
    """SentencePiece unigram, whose vocabulary holds the control tokens as pieces."""
    letters = sorted({c for text in CORPUS for c in text.replace(" ", "▁")} - {"你", "好"})
    pieces = [("<unk>", 0.0), *((t, 0.0) for t in special if t != "<unk>")]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [(f"▁{word}", -3.0) for word in ("the", "quick", "brown", "fox", "user")]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_tokens(added_tokens(special, markup))
    return backend


def with_suffixes() -> Backend:
    """BPE whose words end in `</w>`: a token's text depends on the one after it."""
    backend = Backend(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "</s>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def write_model_files(
    path: Path,
    backend: Backend,
    *,
    chat_template: Any = None,
    generation: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """The tokenizer's files of a model directory."""
    path.mkdir(parents=True, exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        **config,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path
