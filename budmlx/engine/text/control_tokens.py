"""Control tokens, and how to write them as ordinary text.

A prompt is text in which some spans, such as `<|im_start|>`, become one id each. Only the
chat template may write those spans. Two tools keep users from doing so: a `Veil`, which
makes the brackets of what users wrote unrecognisable while the template renders, and a
second tokenizer, whose control tokens are spelled in secret, for the text that results.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers import Encoding as Encoded
from tokenizers import Tokenizer as Backend

from budmlx.errors import InvalidRequestError

# To encode fewer characters takes a few milliseconds.
LONG_TEXT = 16_384
# Characters that one call looks at: no other thread runs during it.
_AT_ONCE = 65_536

BRACKETS = frozenset("<>[]{}|\uff5c")

# Shapes of markup that chat models use, whether or not the template mentions it.
_MARKUP = re.compile(
    r"<[|\uff5c].*>|<.*[|\uff5c]>|\[/?[A-Z_]+\]|</?\w*(?:think|reason|tool|func)\w*>", re.DOTALL
)

_PRIVATE = re.compile("[\U000f0000-\U000ffffd]")


def is_control(token: AddedToken, template_text: str) -> bool:
    """Whether an added token structures a conversation, rather than being vocabulary.

    Tokens not marked special count if they look like markup and are used as such. Runs of
    white space and single characters never count: no text could do without them.
    """
    content = token.content
    if len(content.strip()) < 2:
        return False
    if token.special:
        return True
    looks = not BRACKETS.isdisjoint(content)
    return looks and (content in template_text or _MARKUP.fullmatch(content) is not None)


def encoded(backend: Backend, text: str, *, offsets: bool = False) -> Encoded:
    """Text encoded without what the tokenizer puts around it. Long text stops no other thread.

    offsets: whether the places of tokens are needed, not their ids alone.
    """
    if len(text) <= LONG_TEXT:
        return backend.encode(text, add_special_tokens=False)
    # Unlike `encode`, both release the interpreter lock; the text is one sequence all the same.
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    return encode([text], add_special_tokens=False)[0]


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of JSON-like data with every string, keys included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_strings(k, change): map_strings(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value


def strings(value: Any) -> Iterator[str]:
    """All strings of JSON-like data, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


Span = tuple[int, int, int]


class Veil:
    """Stand-ins for the characters without which no control token can be written.

    The stand-ins are private-use characters that the user's own text does not hold. They
    survive trimming, splitting and JSON, and keep the length of the text.
    """

    def __init__(self, characters: Sequence[str], text: str):
        used = _found(_PRIVATE, text)
        unused = (point for point in range(0xF0000, 0xFFFFE) if chr(point) not in used)
        self._over = dict(zip(map(ord, characters), unused, strict=False))
        if len(self._over) < len(characters):
            raise InvalidRequestError(
                "The messages use up all private-use characters. Remove some.", param="messages"
            )
        self._off = {stand_in: point for point, stand_in in self._over.items()}

    def cover(self, value: Any) -> Any:
        """JSON-like data in which no string can contribute to a control token."""
        return map_strings(value, lambda text: _translated(text, self._over))

    def lift(self, text: str) -> str:
        """The text with its own characters back."""
        return _translated(text, self._off)

    def blank(self, text: str) -> str:
        """The text with a dot for every covered character."""
        return _translated(text, dict.fromkeys(self._off, "."))


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _AT_ONCE] for start in range(0, len(text), _AT_ONCE))


def _found(characters: re.Pattern[str], text: str) -> set[str]:
    """The characters in the text that a pattern for single characters matches."""
    return {found for piece in _pieces(text) for found in characters.findall(piece)}


def _translated(text: str, table: Mapping[int, int | str]) -> str:
    return "".join(piece.translate(table) for piece in _pieces(text))


class ControlTokens:
    """The control tokens of one tokenizer.

    ids: token -> id. unknown_id: what the tokenizer emits for characters that it does not
    know; it does not show where a control token came from, so it is never counted.
    """

    def __init__(self, backend: Backend, ids: Mapping[str, int], unknown_id: int | None):
        self._backend = backend
        self._ids = dict(ids)
        self._tokens = {token_id: token for token, token_id in ids.items()}
        self._counted = frozenset(ids.values()) - {unknown_id}
        longest_first = sorted(map(re.escape, ids), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or "(?!)")
        # Of one length, so that none is part of another, and impossible to guess.
        self._spelling = {token: f"\U0010fffd{secrets.token_hex(12)}" for token in ids}
        self._veiled = _veiled_characters(ids)
        self._second = self._second_backend()
        self._real_id = {}
        for token_id, added in backend.get_added_tokens_decoder().items():
            new_id = self._second.token_to_id(self._spelling.get(added.content, added.content))
            self._real_id[new_id] = token_id

    def veil_for(self, text: str) -> Veil | None:
        """A veil for all that the user wrote; None if it holds nothing to hide."""
        found = _found(self._veiled, text)
        return Veil(sorted(found), text) if found else None

    def written_in(self, text: str) -> list[int]:
        """Ids of the control tokens that the text spells out, in order."""
        found = (self._ids[token] for token in self._pattern.findall(text))
        return [token_id for token_id in found if token_id in self._counted]

    def among(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that are control tokens, in order."""
        return [token_id for token_id in ids if token_id in self._counted]

    def encode_literal(self, text: str) -> list[int]:
        """Ids of text in which nothing is a control token."""
        ids = encoded(self._second, text).ids
        return [self._real_id.get(token_id, token_id) for token_id in ids]

    def recognised(self, text: str) -> list[Span]:
        """The control tokens that the tokenizer itself sees: start, end and id of each."""
        encoding = encoded(self._backend, text, offsets=True)
        found = [
            (i, token_id) for i, token_id in enumerate(encoding.ids) if token_id in self._counted
        ]
        # Few offsets are read: listing all of them stops other threads.
        spans = [(encoding.token_to_chars(place), token_id) for place, token_id in found]
        return [(*span, token_id) for span, token_id in spans if span is not None]

    def encode_spans(self, text: str, spans: Sequence[Span]) -> list[int]:
        """Ids of text in which only the spans are control tokens."""
        pieces, done = [], 0
        for start, end, token_id in spans:
            pieces += [text[done:start], self._spelling[self._tokens[token_id]]]
            done = end
        return self.encode_literal("".join([*pieces, text[done:]]))

    def _second_backend(self) -> Backend:
        """The same tokenizer, except that control tokens are spelled in secret."""
        model = self._backend.model
        for text, token_id in self._ids.items():
            pieces = model.tokenize(text) if token_id in self._counted else []
            if any(piece.id == token_id for piece in pieces):
                spec = _respell(json.loads(self._backend.to_str()), self._spelling)
                return Backend.from_str(json.dumps(spec))
        second = Backend(model)  # The model is shared, which costs nothing.
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            if (value := getattr(self._backend, part)) is not None:
                setattr(second, part, value)
        added = sorted(self._backend.get_added_tokens_decoder().items())
        second.add_tokens([self._respelled(token) for _, token in added])
        return second

    def _respelled(self, token: AddedToken) -> AddedToken:
        if token.content not in self._spelling:
            return token
        return AddedToken(
            self._spelling[token.content],
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=False,
            special=token.special,
        )


def _veiled_characters(tokens: Collection[str]) -> re.Pattern[str]:
    """Characters of which each token holds one, with those that normalizers turn into them."""
    core = {c for token in tokens for c in token} & BRACKETS
    core |= {token.strip()[0] for token in tokens if BRACKETS.isdisjoint(token)}
    others = filter(unicodedata.decomposition, map(chr, range(0x80, 0x10000)))
    wide = {c for c in others if core & set(unicodedata.normalize("NFKD", c))}
    return re.compile(f"[{re.escape(''.join(sorted(core | wide)))}]" if core else "(?!)")


def _respell(spec: dict[str, Any], spelling: Mapping[str, str]) -> dict[str, Any]:
    """A serialized tokenizer in which tokens have new names, in the model's vocabulary too.

    Left there, a unigram model would find `<s>` in text, and merges could lead to it.
    """
    spec.update(truncation=None, padding=None, post_processor=None)
    for token in spec["added_tokens"]:
        if token["content"] in spelling:
            token |= {"content": spelling[token["content"]], "normalized": False}
    model = spec["model"]
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[spelling.get(piece, piece), score] for piece, score in vocab]
    else:
        model["vocab"] = {spelling.get(piece, piece): index for piece, index in vocab.items()}
    if model.get("unk_token") in spelling:
        model["unk_token"] = spelling[model["unk_token"]]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if spelling.keys().isdisjoint((left, right, left + right.removeprefix(prefix)))
        ]
    return spec
