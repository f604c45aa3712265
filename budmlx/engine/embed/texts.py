"""Texts of a request for vectors: as token ids, with the prompt that they begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from budmlx.engine.load.sentence_transformers import EmbeddingFiles
from budmlx.engine.text.encoding import check_ids
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ContextLengthError, InvalidRequestError

Text = str | Sequence[int]
SYNONYMS = {"passage": "document", "document": "passage"}
"""Names under which models have the prompt of what is searched."""


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Different texts as token ids, and which of them each text of the request is.

    skips: so many of the first tokens of each are not pooled. tokens: of all texts of the request.
    seconds: where the second text of each pair begins, if they are pairs.
    """

    ids: list[list[int]]
    places: list[int]
    skips: list[int]
    tokens: int
    warnings: tuple[str, ...] = ()
    seconds: list[int] = field(default_factory=list)


class TextEncoder:
    """Turns texts into ids for one model. longest: most tokens of a text."""

    def __init__(self, files: EmbeddingFiles, tokenizer: Tokenizer, longest: int, vocab_size: int):
        self._files = files
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self.longest = min(files.max_length or longest, longest)

    def encoded(
        self, texts: Sequence[Text], prompt_name: str | None, *, cut: bool, param: str
    ) -> EncodedTexts:
        """Ids of the texts, each computed once however often it is there.

        prompt_name: of the prompt that goes before each; None for the model's own choice.
        cut: texts that are too long lose their end. param: what errors call the texts; it may
        have a place for a number.

        Raises:
            InvalidRequestError: an id or the prompt is unknown, or a text has no tokens.
            ContextLengthError: a text is too long.
        """
        prompt = self._prompt(prompt_name)
        ids: list[list[int]] = []
        places: list[int] = []
        known: dict[tuple[int, ...], int] = {}
        skips: list[int] = []
        warnings: list[str] = []
        total = begin = 0
        if prompt and not self._files.pools_prompt:
            begin = len(self._tokenizer.prefix_ids) + len(self._plain(prompt))
        for number, text in enumerate(texts):
            name = param.format(number)
            these = self._ids(text, prompt, name)
            if len(these) > self.longest:
                warnings.append(self._too_long(these, name, cut=cut))
                these = self._cut(these, text)
            total += len(these)
            # Texts that are given as ids are computed as they are, without a prompt.
            skip = begin if isinstance(text, str) else 0
            place = known.setdefault((skip, *these), len(ids))
            if place == len(ids):
                ids.append(these)
                skips.append(skip)
            places.append(place)
        return EncodedTexts(ids, places, skips, total, tuple(warnings))

    def pairs(self, query: str, documents: Sequence[str], *, cut: bool) -> EncodedTexts:
        """Ids of a query with each document; see `encoded`."""
        tokenizer = self._tokenizer
        first = [*tokenizer.prefix_ids, *self._plain(query), *tokenizer.middle_ids]
        room = self.longest - len(first) - len(tokenizer.suffix_ids)
        if room < 1:
            raise ContextLengthError(
                f"`query` leaves no room for a document; this model takes at most {self.longest} "
                "tokens of both together.",
                param="query",
            )
        ids, warnings = [], []
        for number, document in enumerate(documents):
            own = self._plain(document)
            if len(own) > room:
                name = f"documents[{number}]"
                warnings.append(
                    self._too_long([*first, *own, *tokenizer.suffix_ids], name, cut=cut)
                )
            ids.append([*first, *own[:room], *tokenizer.suffix_ids])
        return EncodedTexts(
            ids,
            list(range(len(ids))),
            [],
            sum(map(len, ids)),
            tuple(warnings),
            seconds=[len(first)] * len(ids),
        )

    def _prompt(self, name: str | None) -> str:
        prompts = self._files.prompts
        if name is None:
            return prompts.get(self._files.prompt or "", "")
        names = (name, name.removeprefix("search_"))
        for each in (*names, SYNONYMS.get(names[1], "")):
            if each in prompts:
                return prompts[each]
        has = f"has {', '.join(sorted(prompts))}" if prompts else "has none"
        raise InvalidRequestError(
            f"There is no prompt {name!r}: this model {has}.", param="prompt_name"
        )

    def _ids(self, text: Text, prompt: str, name: str) -> list[int]:
        if isinstance(text, str):
            tokenizer = self._tokenizer
            ids = [*tokenizer.prefix_ids, *self._plain(prompt + text), *tokenizer.suffix_ids]
        else:
            check_ids(text, self._vocab_size, name)
            ids = list(text)
        if not ids:
            raise InvalidRequestError(f"`{name}` has no tokens.", param=name)
        return ids

    def _plain(self, text: str) -> list[int]:
        text = text.lower() if self._files.lower else text
        return self._tokenizer.encode(text, add_special=False)

    def _too_long(self, ids: Sequence[int], name: str, *, cut: bool) -> str:
        """The warning about a text that is cut."""
        if not cut:
            raise ContextLengthError(
                f"`{name}` has {len(ids)} tokens; this model takes at most {self.longest} of one "
                "text. Shorten it, or let it be cut with `truncate`.",
                param=name,
            )
        return f"`{name}` was cut from {len(ids)} tokens to {self.longest}."

    def _cut(self, ids: list[int], text: Text) -> list[int]:
        """The first ids, with what the model expects at the end of a text."""
        suffix = self._tokenizer.suffix_ids if isinstance(text, str) else []
        return ids[: self.longest - len(suffix)] + suffix if suffix else ids[: self.longest]
