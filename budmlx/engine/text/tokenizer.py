"""Tokenizer: text to token ids and back, without MLX."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import takewhile
from operator import itemgetter
from pathlib import Path

from tokenizers import Tokenizer as Backend

from budmlx.engine.template.template import ChatTemplate
from budmlx.engine.text.control_tokens import ControlTokens, encoded, is_control
from budmlx.engine.text.token_decoder import decoder_kinds, mend_decoder
from budmlx.engine.text.tokenizer_files import read_tokenizer
from budmlx.errors import InvalidRequestError

logger = logging.getLogger(__name__)


class Tokenizer:
    """The tokenizer of one model, with its chat templates.

    backend: the tokenizers library's object. special_tokens: `bos_token` -> `<s>` and so on.
    eos_token_ids: ids that end a reply, those of generation_config.json first.
    hidden_ids: ids that are never shown as text. prefix_ids: ids that the model expects before
    text that no template wrote; suffix_ids: after it, where a whole text ends;
    middle_ids: between the texts of a pair. control: tokens
    that only templates write. token_bytes: what each token stands for. mended_decoder: the decoder
    that replaces the file's, as JSON, or empty. tool_parser: mlx-lm's name of the format of calls
    in the model's files, or empty.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str],
        chat_templates: Mapping[str, str],
        eos_token_ids: Sequence[int] = (),
        tool_parser: str = "",
    ):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.mended_decoder = mend_decoder(backend)
        self.token_bytes = TokenBytes(backend)
        self.special_tokens = dict(special_tokens)
        self.tool_parser = tool_parser
        own_eos = backend.token_to_id(self.special_tokens.get("eos_token", ""))
        self.eos_token_ids = tuple(
            dict.fromkeys([*eos_token_ids, *([] if own_eos is None else [own_eos])])
        )
        added = backend.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        self.hidden_ids = frozenset(special.union(self.eos_token_ids))
        sources: Mapping[str, str | None] = chat_templates or {"default": None}
        self._templates = {
            name: ChatTemplate(source, self.special_tokens) for name, source in sources.items()
        }
        literals = "\0".join(template.literals for template in self._templates.values())
        self.control = ControlTokens(
            backend,
            {token.content: i for i, token in added.items() if is_control(token, literals)},
            unknown_id=backend.token_to_id(self.special_tokens.get("unk_token", "<unk>")),
        )
        probe = backend.encode("a")
        masked = list(zip(probe.ids, probe.special_tokens_mask, strict=True))
        self.prefix_ids = [token_id for token_id, _ in takewhile(itemgetter(1), masked)]
        suffix = [token_id for token_id, _ in takewhile(itemgetter(1), reversed(masked))]
        self.suffix_ids = suffix[::-1] if len(suffix) < len(masked) else []
        pair = backend.encode("a", "a")
        places = [place for place, text in enumerate(pair.sequence_ids) if text == 0]
        seconds = [place for place, text in enumerate(pair.sequence_ids) if text == 1]
        self.middle_ids = pair.ids[places[-1] + 1 : seconds[0]] if places and seconds else []

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer of a model directory. Never runs code from it.

        Raises:
            ModelLoadError: a file is missing or cannot be read.
        """
        files = read_tokenizer(Path(path))
        if not files.chat_templates:
            logger.warning("The model has no chat template; messages are written as plain text.")
        return cls(
            files.backend,
            special_tokens=files.special_tokens,
            chat_templates=files.chat_templates,
            eos_token_ids=files.eos_token_ids,
            tool_parser=files.tool_parser,
        )

    def template(self, *, tools: bool = False) -> ChatTemplate:
        """The model's chat template; the one for tools where it brings a separate one."""
        if tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        return self._templates.get("default") or next(iter(self._templates.values()))

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids of text; control tokens in it become their ids.

        add_special: begin with what the model expects there, such as `<s>`, unless the text
        already does.

        Raises:
            InvalidRequestError: the text holds a lone surrogate.
        """
        check_text(text)
        ids: list[int] = encoded(self.backend, text).ids
        prefix = self.prefix_ids if add_special else []
        return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]


def check_text(text: str, param: str | None = None) -> None:
    """Refuse text that is not valid Unicode.

    Raises:
        InvalidRequestError: the text holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "The text holds a lone surrogate, which is not a character.", param=param
        ) from None


class TokenBytes(dict[int, bytes]):
    """The UTF-8 bytes that a token alone stands for, by its id, computed when first asked for.

    A space that words begin with is included; an unknown id has no bytes.
    byte_level: each character of a token stands for one byte.
    """

    def __init__(self, backend: Backend):
        super().__init__()
        self.byte_level = "ByteLevel" in decoder_kinds(backend)
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
