"""Token bytes: what each token of a vocabulary stands for."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer as Backend


class TokenBytes(dict[int, bytes]):
    """The UTF-8 bytes that a token alone stands for, by its id, computed when first asked for.

    A space that words begin with is included; an unknown id has no bytes.
    byte_level: each character of a token stands for one byte.
    """

    def __init__(self, backend: Backend):
        super().__init__()
        self.byte_level = "ByteLevel" in _decoder_kinds(backend)
        self._token = backend.id_to_token

    def __missing__(self, token_id: int) -> bytes:
        token = self._token(token_id) or ""
        if self.byte_level:
            known = _bytes_of(token)
        else:
            byte = fallback_byte(token)
            known = token.replace("\u2581", " ").encode() if byte is None else bytes([byte])
        self[token_id] = known
        return known


def fallback_byte(token: str) -> int | None:
    """The byte that a token such as `<0xE2>` stands for."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def _decoder_kinds(backend: Backend) -> set[str]:
    if backend.decoder is None:
        return set()
    spec = json.loads(backend.decoder.__getstate__())
    return {part["type"] for part in spec.get("decoders", [spec])}


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: visible Latin-1 is itself, the others follow from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


def _bytes_of(token: str) -> bytes:
    alphabet = _byte_of_character()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:  # An added token in plain text.
        return token.encode()
