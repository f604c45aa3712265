"""Token decoder: the way from tokens to text that fits a vocabulary.

Conversions of models come with decoders of other tokenizers, such as a byte-level vocabulary with
the decoder of SentencePiece. What a decoder makes of texts tells which one is right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders

PROBES = (
    "a the fine day's end, 42",
    "the naïve café über Zoë",
    "a 🙂 日本 word",
    "the end\n\tthe end\r\n\n",
)
"""Spaces, accents, an emoji and line breaks, apart, since small vocabularies lack some of them."""


def mend_decoder(backend: Backend) -> str:
    """Give a tokenizer the decoder that gives more texts back than its own.

    Returns the new decoder as `tokenizer.json` writes it, or an empty string where none is better.
    """
    probes = [(_forms(backend, text), _tokens(backend, text)) for text in PROBES]
    own = {i for i, (forms, tokens) in enumerate(probes) if _decoded(backend, tokens) in forms}
    if len(own) == len(probes):
        return ""
    begins = any(tokens[:1] and tokens[0].startswith("\u2581") for _, tokens in probes)
    for decoder in (decoders.ByteLevel(), _sentencepiece(strip=begins)):
        texts = [decoder.decode(tokens).strip(" ") for _, tokens in probes]
        right = {i for i, (forms, _) in enumerate(probes) if texts[i] in forms}
        if own < right:
            backend.decoder = decoder
            return str(decoder.__getstate__(), "utf-8")
    return ""


def decoder_kinds(backend: Backend) -> set[str]:
    """The types of a tokenizer's decoder and of its parts."""
    if backend.decoder is None:
        return set()
    spec = json.loads(backend.decoder.__getstate__())
    return {part["type"] for part in spec.get("decoders", [spec])}


def _tokens(backend: Backend, text: str) -> list[str]:
    # The library's own list of tokens has the text of unknown ones.
    ids = backend.encode(text, add_special_tokens=False).ids
    return [backend.id_to_token(token_id) or "" for token_id in ids]


def _decoded(backend: Backend, tokens: Sequence[str]) -> str:
    text = " ".join(tokens) if backend.decoder is None else backend.decoder.decode(list(tokens))
    return str(text).strip(" ")


def _forms(backend: Backend, text: str) -> set[str]:
    """The text, and what the tokenizer's normalizer leaves of it."""
    if backend.normalizer is None:
        return {text}
    return {text, backend.normalizer.normalize_str(text).replace("\u2581", " ").strip(" ")}


def _sentencepiece(*, strip: bool) -> decoders.Decoder:
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
