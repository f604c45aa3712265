"""A byte-level BPE closed under letter case and leading space.

Merges are learned on lower-case words, then repeated for Capitalized and UPPER-CASE spelling and
with a space in front. A word therefore falls into the same pieces however it is written, so that
upper-casing and quoting map token to token, also for words never seen.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
SPACE = "Ġ"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTRACTIONS = ("s", "t", "m", "d", "ll", "re", "ve")
PUNCTUATION = r"[^\s\p{L}\p{N}]"
PATTERN = (
    r"'(?:[stmd]|ll|re|ve)(?!\p{L})| ?\p{L}+| ?\p{N}| ?"
    + f"{PUNCTUATION}+(?: {PUNCTUATION}+)*"
    + r"|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>",
           "</tools>", "<think>", "</think>"]  # fmt: skip
Merge = tuple[str, str]


def learn_merges(texts: Iterable[str], pattern: str, size: int) -> list[Merge]:
    """BPE merges of the pre-tokens that match the pattern, most frequent first."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(vocab_size=size, max_token_length=12, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def close_merges(lower: list[Merge], punctuation: list[Merge]) -> list[Merge]:
    merges: list[Merge] = []
    for left, right in lower:
        capital = (left.capitalize(), right)
        merges += [(left, right), capital, (left.upper(), right.upper())]
    merges = list(dict.fromkeys(merges))
    pieces = [*LETTERS, *LETTERS.upper(), *("".join(pair) for pair in merges)]
    merges += [(SPACE, piece) for piece in pieces] + [(SPACE, digit) for digit in "0123456789"]
    contractions = [("'", end) for end in CONTRACTIONS]
    return merges + contractions + [pair for pair in punctuation if pair not in merges]


def build(texts: list[str]) -> Tokenizer:
    lowered = [text.lower() for text in texts]
    letters = learn_merges(lowered, "[a-z]+", 1000)
    signs = learn_merges(texts, f" ?{PUNCTUATION}+(?: {PUNCTUATION}+)*", 330)[:110]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = VOCABULARY - len(alphabet) - len(SPECIAL) - len(MARKERS)
    count = len(letters)
    while len({"".join(m) for m in close_merges(letters[:count], signs)}) > room:
        count -= 1
    merges = close_merges(letters[:count], signs)
    tokens = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in MARKERS])
    return tokenizer


@dataclass
class Factors:
    """For each token id: its lower-case piece without space, its case, and its leading space."""

    base: list[int]
    case: list[int]
    space: list[int]


def factors(tokenizer: Tokenizer) -> Factors:
    """Lets training share one vector between the spellings of a piece."""
    names = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    bases: dict[str, int] = {}
    result = Factors([], [], [])
    for name in names:
        spaced = name.startswith(SPACE) and len(name) > 1
        piece = name[1:] if spaced else name
        letters = piece.isascii() and piece.isalpha()
        case = 0
        if letters and not piece.islower():
            case = 1 if len(piece) == 1 else 2 if piece[1:].islower() else 3
        key = piece.lower() if letters else piece
        result.base.append(bases.setdefault(key, len(bases)))
        result.case.append(case)
        result.space.append(int(spaced))
    return result


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json (with the chat template) and generation ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (Path(__file__).parent / "chat_template.jinja").read_text()
    end, pad = (tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
        "clean_up_tokenization_spaces": False, "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": [end, pad], "pad_token_id": pad}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
