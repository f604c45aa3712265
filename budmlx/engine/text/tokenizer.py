"""Tokenizer: text to token ids and back, without MLX and mostly without transformers.

Importing transformers takes longer than starting the rest of the server, so that
`tokenizer.json` is read with the tokenizers library, and the files beside it here.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from budmlx.engine.template.template import SPECIAL_TOKEN_NAMES, ChatTemplate
from budmlx.engine.text.control_tokens import ControlTokens, encoded, is_control
from budmlx.engine.text.token_decoder import decoder_kinds, mend_decoder
from budmlx.errors import InvalidRequestError, ModelLoadError

logger = logging.getLogger(__name__)


class Tokenizer:
    """The tokenizer of one model, with its chat templates.

    backend: the tokenizers library's object. special_tokens: `bos_token` -> `<s>` and so on.
    eos_token_ids: ids that end a reply, those of generation_config.json first.
    hidden_ids: ids that are never shown as text. prefix_ids: ids that the model expects before
    text that no template wrote. control: tokens that only templates write. token_bytes: what each
    token stands for. mended_decoder: the decoder that replaces the file's, as JSON, or empty.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str],
        chat_templates: Mapping[str, str],
        eos_token_ids: Sequence[int] = (),
    ):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.mended_decoder = mend_decoder(backend)
        self.token_bytes = TokenBytes(backend)
        self.special_tokens = dict(special_tokens)
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
        masked = takewhile(
            lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True)
        )
        self.prefix_ids = [token_id for token_id, _ in masked]

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer of a model directory. Never runs code from it.

        Raises:
            ModelLoadError: a file is missing or cannot be read.
        """
        directory = Path(path)
        eos = _read_json(directory / "generation_config.json").get("eos_token_id") or []
        eos_ids = [eos] if isinstance(eos, int) else eos
        if not isinstance(eos_ids, list) or not all(isinstance(each, int) for each in eos_ids):
            raise ModelLoadError(
                "generation_config.json: eos_token_id must be a token id or a list of them."
            )
        native = (directory / "tokenizer.json").is_file()
        backend, special, templates = _read(directory) if native else _convert(directory)
        if not templates:
            logger.warning("The model has no chat template; messages are written as plain text.")
        return cls(
            backend,
            special_tokens=special,
            chat_templates=templates,
            eos_token_ids=eos_ids,
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


Parts = tuple[Backend, dict[str, str], dict[str, str]]
"""Backend, named special tokens, chat templates by name."""


def _read(directory: Path) -> Parts:
    """The parts of a directory with tokenizer.json."""
    config = _read_config(directory)
    try:
        special = {name: config[name] for name in SPECIAL_TOKEN_NAMES if config.get(name)}
        return _read_backend(directory, config), special, _read_templates(directory, config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"tokenizer_config.json cannot be used: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} must hold a JSON object.")
    return content


def _read_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the files that older models have beside it.

    Named special tokens are plain strings, `added` lists further `AddedToken`s by id.
    """
    config = _read_json(directory / "tokenizer_config.json")
    config.setdefault("extra_special_tokens", config.get("additional_special_tokens"))
    if "added_tokens_decoder" not in config:
        config |= _read_json(directory / "special_tokens_map.json")
        named = _read_json(directory / "added_tokens.json")
        config["added_tokens_decoder"] = {i: {"content": token} for token, i in named.items()}
    for name in SPECIAL_TOKEN_NAMES:
        if isinstance(config.get(name), dict):
            config[name] = config[name]["content"]
    return config


def _read_backend(directory: Path, config: Mapping[str, Any]) -> Backend:
    """tokenizer.json, with tokens that only tokenizer_config.json knows."""
    try:
        backend = Backend.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # The library raises nothing more specific.
        raise ModelLoadError(f"tokenizer.json cannot be read: {error}") from error
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
    backend.add_tokens([AddedToken(**t) for _, t in listed if t["content"] not in known])
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for content in _special_contents(config):
        token = added.get(content) or AddedToken(content, normalized=False)
        if not token.special:
            token.special = True
            backend.add_special_tokens([token])
    return backend


def _special_contents(config: Mapping[str, Any]) -> Iterator[str]:
    extra = config.get("extra_special_tokens") or []
    named = [config.get(name) for name in SPECIAL_TOKEN_NAMES]
    for token in [*named, *(extra.values() if isinstance(extra, dict) else extra)]:
        content = token["content"] if isinstance(token, dict) else token
        if content:
            yield content


def _read_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name. Files take precedence over tokenizer_config.json."""
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if files:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    older = _read_json(directory / "chat_template.json")
    return _by_name(config.get("chat_template") or older.get("chat_template"))


def _by_name(source: Any) -> dict[str, str]:
    """Templates by name, from any of the forms in which models list them."""
    if isinstance(source, list):
        return {entry["name"]: entry["template"] for entry in source}
    if isinstance(source, str):
        return {"default": source}
    return dict(source or {})


def _convert(directory: Path) -> Parts:
    """The parts of a directory without tokenizer.json."""
    # The only import of transformers: it takes a second that most models need not wait.
    transformers = importlib.import_module("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # Whatever a converter raises.
        raise ModelLoadError(
            "The model has no tokenizer.json, and its other tokenizer files cannot be read."
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise ModelLoadError(
            "The model's tokenizer has no fast form. Convert it to tokenizer.json first."
        )
    return backend, dict(tokenizer.special_tokens_map), _by_name(tokenizer.chat_template)


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
