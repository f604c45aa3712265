"""A random two-layer model that says what scripts say, for conversations of agents.

It has 65,536 positions and a byte-level BPE of about 8,000 tokens: agents' first bodies hold
50 KB and more. Its replies are in its weights, so that every client of every dialect gets them: a
message of the user with `script NAME;` in it starts the script of that name, and each assistant's
turn from there on is the script's next reply. The chat template writes a token that stands for
that reply, `<|NAME.0|>`, before it; from there each token of the reply is a token of its own
whose embedding points at the next one. So replies take few steps, and the history of a
conversation has the same ids as the replies had. Without a script the model says "Hello."
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import save_config, save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from budmlx.testing.tiny_random import LLAMA, build

ROOT = Path(__file__).parent.parent
POSITIONS = 65_536
VOCABULARY = 8_000
PIECE = 12
"""Characters of a token of a reply, or more where a shorter one would not be unique."""

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>")
END = "<|im_end|>"
DEFAULT = {"hello": ("Hello.",), "over": ("That is all.",)}
"""What it says without a script, and after the last reply of one."""

TEMPLATE = """\
{%- set scripts = SCRIPTS -%}
{%- set now = namespace(script='hello', turn=0) -%}
{%- macro opening(now) -%}
<|im_start|>assistant
{% if now.turn < scripts[now.script] -%}
<|{{ now.script }}.{{ now.turn }}|>
{%- else -%}
<|over.0|>
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
Call a function as <tool_call>
{"name": ..., "arguments": ...}
</tool_call>. Functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{{ opening(now) }}
{%- set now.turn = now.turn + 1 -%}
{%- if m.reasoning_content -%}
<think>
{{ m.reasoning_content }}
</think>

{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] -%}
{%- if m.content or not loop.first %}
{% endif -%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% else -%}
{%- if m.role == 'user' -%}
{%- for name in scripts if ('script ' ~ name ~ ';') in m.content -%}
{%- set now.script = name -%}
{%- set now.turn = 0 -%}
{%- endfor -%}
{%- endif -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ opening(now) }}
{%- endif -%}
"""

Scripts = Mapping[str, Sequence[str]]

_FOLDER = tempfile.TemporaryDirectory(prefix="budmlx-agent-models-")


def calling(name: str, arguments: Mapping[str, Any], *, before: str = "") -> str:
    """The text of a reply that calls a function. before: what it says first."""
    call = json.dumps({"name": name, "arguments": dict(arguments)})
    said = f"{before}\n" if before else ""
    return f"{said}<tool_call>\n{call}\n</tool_call>"


def thinking(thought: str, reply: str) -> str:
    """The text of a reply that begins with reasoning."""
    return f"<think>\n{thought}\n</think>\n\n{reply}"


def agent_model(scripts: Scripts) -> Path:
    """The directory of a model with these scripts, which it has beside `DEFAULT`.

    scripts: the replies of each, by names of letters and digits.
    """
    return _written(json.dumps({**DEFAULT, **{name: [*s] for name, s in scripts.items()}}))


@cache
def _written(key: str) -> Path:
    scripts: Scripts = json.loads(key)
    path = Path(tempfile.mkdtemp(dir=_FOLDER.name)) / "agent"
    write_agent_model(path, scripts)
    return path


def write_agent_model(path: Path, scripts: Scripts) -> None:
    """Write config, weights and tokenizer of the model to `path`."""
    said = {
        f"<|{name}.{turn}|>": reply
        for name, replies in scripts.items()
        for turn, reply in enumerate(replies)
    }
    used: set[str] = set()
    chains = [[token, *_pieces(reply, used), END] for token, reply in said.items()]
    tokenizer = _tokenizer()
    pieces = chain.from_iterable(each[1:-1] for each in chains)
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in pieces])
    special = (*CONTROL, *said)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    path.mkdir(parents=True)
    tokenizer.save(str(path / "tokenizer.json"))
    counts = {name: len(replies) for name, replies in scripts.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": CONTROL[0],
        "chat_template": TEMPLATE.replace("SCRIPTS", json.dumps(counts)),
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    eos = [tokenizer.token_to_id(END), tokenizer.token_to_id(CONTROL[0])]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    ids = [[tokenizer.token_to_id(token) for token in each] for each in chains]
    _write_weights(path, tokenizer.get_vocab_size(), ids)


def _pieces(reply: str, used: set[str]) -> list[str]:
    """The reply in pieces that no reply had before."""
    pieces: list[str] = []
    while reply:
        length = min(PIECE, len(reply))
        while reply[:length] in used and length < len(reply):
            length += 1
        piece, reply = reply[:length], reply[length:]
        while piece in used:
            # What is left ends as another reply does, so it belongs to the piece before.
            assert pieces, f"two replies are the same: {piece!r}"
            used.discard(pieces[-1])
            piece = pieces.pop() + piece
        used.add(piece)
        pieces.append(piece)
    return pieces


@cache
def _corpus() -> tuple[str, ...]:
    files = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "budmlx").rglob("*.py")])
    return tuple(file.read_text("utf-8") for file in files)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in MARKUP])
    return tokenizer


def _write_weights(path: Path, vocabulary: int, chains: Sequence[Sequence[int]]) -> None:
    config = {
        **LLAMA,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": False,
        # Attention over long prompts takes its time by the number of heads.
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    model = build(config, seed=0)
    size = config["hidden_size"]
    links = [link for each in chains for link in pairwise(each)]
    known, following = zip(*links, strict=True)
    # One direction for each token that follows, however many lead to it.
    codes = mx.random.normal((vocabulary, size), key=mx.random.key(1))
    codes = (codes / mx.linalg.norm(codes, axis=-1, keepdims=True))[mx.array(following)]
    # What the layers add is small beside these, so that the norm leaves the direction.
    model.model.embed_tokens.weight[mx.array(known)] = 100 * codes
    model.lm_head.weight *= 0.01
    model.lm_head.weight[mx.array(following)] = 20 * codes
    path.mkdir(parents=True, exist_ok=True)
    save_model(path, model)
    save_config(config, path / "config.json")


if __name__ == "__main__":
    # For tests in environments without MLX: the directory, and the scripts as JSON.
    write_agent_model(Path(sys.argv[1]), {**DEFAULT, **json.loads(sys.argv[2])})
