"""The tokenizer against transformers, and control tokens as literal text."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend

from budmlx.engine.text.control_tokens import BRACKETS, LONG_TEXT
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError, ModelLoadError
from tests import tokenizers

BUILDERS = {
    "byte_level": tokenizers.byte_level,
    "sentencepiece": tokenizers.sentencepiece_bpe,
    "sentencepiece_legacy": lambda **tokens: tokenizers.sentencepiece_bpe(**tokens, legacy=True),
    "unigram": tokenizers.unigram,
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ALL = (*tokenizers.SPECIAL, *tokenizers.MARKUP)

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([*ALL, "<|im_", "start|>", "<", "|>", "[", "]", "the ", "é", "😀", "\n"]),
        st.text(st.characters(codec="utf-8"), max_size=5),
    ),
    max_size=12,
).map("".join)


@cache
def special_only(kind: str) -> Backend:
    return BUILDERS[kind](special=ALL, markup=())


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(BUILDERS[kind](), special_tokens=NAMED, chat_templates={})


def load(path: Path, backend: Backend, **files: Any) -> Tokenizer:
    return Tokenizer.load(tokenizers.write_model_files(path, backend, **files))


@pytest.mark.parametrize("kind", BUILDERS)
def test_ids_and_text_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    ours = load(tmp_path, special_only(kind))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)

    @given(HOSTILE)
    def check(text: str) -> None:
        ids = ours.encode(text, add_special=False)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.backend.decode(ids) == theirs.decode(ids, skip_special_tokens=True)

    check()
    assert ours.encode("the fox", add_special=True) == theirs.encode("the fox")
    names = ("bos_token", "eos_token")
    assert [ours.special_tokens.get(n) for n in names] == [getattr(theirs, n) for n in names]


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "sentencepiece_legacy"])
def test_literal_ids_equal_those_of_split_special_tokens(kind: str) -> None:
    backend = special_only(kind)
    ours = Tokenizer(backend, special_tokens=NAMED, chat_templates={})
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED)

    @given(HOSTILE)
    def check(text: str) -> None:
        split = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.control.encode_literal(text) == split

    check()


@pytest.mark.parametrize("kind", BUILDERS)
def test_literal_text_never_holds_control_tokens(kind: str) -> None:
    ours = tokenizer(kind)
    unknown = ours.backend.token_to_id("<unk>")
    control = {ours.backend.token_to_id(token) for token in ALL} - {unknown}

    @given(HOSTILE)
    def check(text: str) -> None:
        assert control.isdisjoint(ours.control.encode_literal(text))

    check()
    assert not control.isdisjoint(ours.encode("a<think>b", add_special=False))


@pytest.mark.parametrize("kind", BUILDERS)
@given(text=st.text("abc <b>é\n[1]", max_size=30))
def test_harmless_text_is_the_same_literally(kind: str, text: str) -> None:
    assert tokenizer(kind).control.encode_literal(text) == tokenizer(kind).encode(
        text, add_special=False
    )


@pytest.mark.parametrize("kind", BUILDERS)
def test_long_text_has_the_same_ids_and_places(kind: str) -> None:
    ours = tokenizer(kind)
    text = "the <think>quick [INST] fox 😀 \ue000<|im_end|>é\n" * (2 * LONG_TEXT // 40)
    whole = ours.backend.encode(text, add_special_tokens=False)
    assert ours.encode(text, add_special=False) == whole.ids
    pairs = zip(whole.offsets, whole.ids, strict=True)
    control = set(ours.control.among(whole.ids))
    spans = [(*offsets, token_id) for offsets, token_id in pairs if token_id in control]
    assert ours.control.recognised(text) == spans
    assert ours.control.encode_spans(text, spans) == whole.ids
    assert ours.control.among(ours.control.encode_literal(text)) == []


def test_a_veil_covers_long_text() -> None:
    control = tokenizer("byte_level").control
    text = "\U000f0000the quick fox, " * 10_000 + "<think>"
    assert control.veil_for(text[:-7]) is None
    veil = control.veil_for(text)
    assert veil is not None
    covered = veil.cover([text])[0]
    assert covered[:-7] == text[:-7] and set(covered[-7:]).isdisjoint(BRACKETS)
    assert veil.lift(covered) == text
    assert veil.blank(covered) == text[:-7] + ".think."


def test_merges_that_lead_to_a_control_token_are_not_followed() -> None:
    spec = json.loads(tokenizers.byte_level().to_str())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    vocab |= {"[I": 1000, "[IN": 1001, "[INS": 1002, "[INST": 1003, "[INST]": 1004}
    merges += [["[", "I"], ["[I", "N"], ["[IN", "S"], ["[INS", "T"], ["[INST", "]"]]
    spec["added_tokens"] = []
    spec["pre_tokenizer"]["use_regex"] = False
    backend = Backend.from_str(json.dumps(spec))
    assert backend.encode("[INST]").ids == [1004]
    backend.add_tokens([AddedToken("[INST]", special=True)])
    ours = Tokenizer(backend, special_tokens={}, chat_templates={})
    assert ours.encode("[INST]", add_special=False) == [1004]
    assert ours.control.encode_literal("[INST]") == [1003, vocab["]"]]


def test_which_added_tokens_are_control_tokens() -> None:
    backend = tokenizers.byte_level(special=["<s>", "\n", "!"], markup=[])
    words = ["the", "  ", "<table>", "<mask_7>", "<|fim|>", "<tool_call>", "[TOOL_CALLS]"]
    backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    ours = Tokenizer(
        backend, special_tokens={}, chat_templates={"default": "{{ messages[0].content }}<mask_7>"}
    )
    text = " the  <table><s>!"
    expected = ours.encode(text.replace("<s>", ""), add_special=False)
    literal = ours.control.encode_literal(text)
    assert ours.control.among(expected) == []
    assert set(expected) - set(literal) == set()
    assert ours.control.written_in("".join(words)) == [
        backend.token_to_id(word) for word in words[3:]
    ]


def test_the_beginning_is_written_once(tmp_path: Path) -> None:
    ours = load(tmp_path, tokenizers.sentencepiece_bpe())
    begin = ours.backend.token_to_id("<s>")
    for text in ("the fox", "<s>the fox"):
        assert ours.encode(text, add_special=True).count(begin) == 1
    assert begin not in ours.encode("the fox", add_special=False)


def test_lone_surrogates_are_refused() -> None:
    for kind, text in (("byte_level", "a\ud800"), ("unigram", "a\ud800"), ("byte_level", "\udfff")):
        with pytest.raises(InvalidRequestError, match="surrogate"):
            tokenizer(kind).encode(text, add_special=True)


def test_truncation_and_padding_are_switched_off(tmp_path: Path) -> None:
    backend = tokenizers.byte_level()
    expected = backend.encode("a b c d").ids
    backend.enable_truncation(2)
    backend.enable_padding(length=50, pad_token="<s>")
    assert load(tmp_path, backend).encode("a b c d", add_special=False) == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, ["</s>"]),
        ({}, ["</s>"]),
        ({"eos_token_id": "<|im_end|>"}, ["<|im_end|>", "</s>"]),
        ({"eos_token_id": ["<|im_end|>", "</s>"]}, ["<|im_end|>", "</s>"]),
    ],
)
def test_end_of_sequence_ids(
    generation: dict[str, Any] | None, expected: list[str], tmp_path: Path
) -> None:
    backend = tokenizers.byte_level()
    if generation:
        tokens = generation["eos_token_id"]
        ids = [backend.token_to_id(t) for t in ([tokens] if isinstance(tokens, str) else tokens)]
        generation = {"eos_token_id": ids[0] if isinstance(tokens, str) else ids}
    ours = load(tmp_path, backend, generation=generation)
    assert [backend.id_to_token(i) for i in ours.eos_token_ids] == expected


def test_tokens_that_only_the_config_knows_are_added(tmp_path: Path) -> None:
    backend = tokenizers.byte_level(special=["<s>", "</s>"], markup=["<think>"])
    size = backend.get_vocab_size()
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    config = {
        "added_tokens_decoder": {
            str(size + 1): {"content": "<two>", "special": False, **flags},
            str(size): {"content": "<one>", "special": True, **flags},
        },
        "additional_special_tokens": ["<think>"],
        "pad_token": {"__type": "AddedToken", "content": "<pad>", **flags},
    }
    ours = load(tmp_path, backend, **config)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "<one><two><pad><think>"
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.backend.decode(ours.encode(text, add_special=False)) == "<two>"
    assert ours.special_tokens["pad_token"] == "<pad>"


def test_special_tokens_of_older_models_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    tokenizers.write_model_files(tmp_path, tokenizers.byte_level())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "<|im_end|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<extra>": 9999}))
    ours = Tokenizer.load(tmp_path)
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    assert len(ours.encode("<extra>", add_special=False)) == 1


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def test_templates_are_found_where_models_keep_them(tmp_path: Path) -> None:
    def shown(ours: Tokenizer, tools: bool = False) -> str:
        return ours.template(tools=tools).render([{"role": "user", "content": "x"}])

    backend = tokenizers.byte_level()
    named = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "T"}]
    ours = load(tmp_path, backend, chat_template=named)
    assert (shown(ours), shown(ours, tools=True)) == ("A", "T")
    assert shown(load(tmp_path, backend, chat_template=TEMPLATE), tools=True) == "<s>x"
    tokenizers.write_model_files(tmp_path, backend)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "B"}))
    assert shown(Tokenizer.load(tmp_path)) == "B"
    (tmp_path / "chat_template.jinja").write_text("C")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("D")
    ours = load(tmp_path, backend, chat_template="E")
    assert (shown(ours), shown(ours, tools=True)) == ("C", "D")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"text": "x"}}}'),
        ("generation_config.json", "{,}"),
        ("chat_template.jinja", "{% for %}"),
    ],
)
def test_unusable_files_are_named(name: str, content: str, tmp_path: Path) -> None:
    tokenizers.write_model_files(tmp_path, tokenizers.byte_level())
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelLoadError, match=name.partition(".")[0].replace("_", "[_ ]")):
        Tokenizer.load(tmp_path)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_sentencepiece_models_are_converted(tmp_path: Path) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(tokenizers.CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    config = {"tokenizer_class": "LlamaTokenizer", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.load(tmp_path)
    sentences = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    ids = ours.encode("The quick fox ☃", add_special=False)
    assert ids == sentences.encode("The quick fox ☃")
    assert ours.backend.decode(ids) == "The quick fox ☃"
    assert ours.eos_token_ids == (sentences.eos_id(),)
    assert not ours.template().plain


def test_repository_code_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass T: pass\n")
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", null]}}'
    )
    with pytest.raises(ModelLoadError):
        Tokenizer.load(tmp_path)
    assert not witness.exists()


def test_compatibility_characters_do_not_become_control_tokens() -> None:
    backend = tokenizers.byte_level(markup=[])
    backend.normalizer = normalizers.NFKC()
    backend.add_tokens([AddedToken("<think>", normalized=True)])
    ours = Tokenizer(backend, special_tokens=NAMED, chat_templates={})
    wide = "".join(chr(ord(c) + 0xFEE0) for c in "<think>")
    assert ours.control.among(ours.encode(wide, add_special=False)) != []
    assert ours.control.among(ours.control.encode_literal(wide)) == []


PROGRAM = """
import sys
from budmlx.engine.request.render import render
from budmlx.engine.text import decode, tokenizer
from budmlx.types import Message
tokens = tokenizer.Tokenizer.load(sys.argv[1])
ids = render(tokens, [Message(role="user", content="<|im_start|> hi <b>")], {})
stream = decode.TextStream(tokens, ["x"])
shown = "".join(map(stream.push, ids)) + stream.finish()
assert "hi" in shown, shown
print(*sorted({"mlx", "mlx_lm", "transformers", "torch", "numpy"} & sys.modules.keys()))
"""


def test_neither_mlx_nor_transformers_is_imported(tmp_path: Path) -> None:
    tokenizers.write_model_files(tmp_path, tokenizers.byte_level(), chat_template=TEMPLATE)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == []


@pytest.mark.parametrize("eos", ["x", ["a"], {"a": 1}, [1, None]])
def test_ends_that_are_no_ids_are_refused(tmp_path: Path, eos: object) -> None:
    path = tokenizers.write_model_files(
        tmp_path / "m", tokenizers.byte_level(), generation={"eos_token_id": eos}
    )
    with pytest.raises(ModelLoadError, match=r"generation_config\.json: eos_token_id"):
        Tokenizer.load(path)
