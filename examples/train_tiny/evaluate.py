"""Exact answers per skill on held-out conversations, greedy, in batches.

python evaluate.py ../../budmlx/assets/tiny --count 200
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
from data import evaluation
from mlx_lm import batch_generate, load
from render import Sample, answer_text, call_text

SKILLS = ["greeting", "counting", "arithmetic", "capitals", "repeat", "upper", "memory", "json",
          "tool_call", "tool_result", "no_tool", "think", "topic", "chat", "unknown", "no_name",
          "parallel"]  # fmt: skip
EXTRA = ("topic", "chat", "unknown", "no_name", "parallel")
BAR = 0.9
SEED = 20_000


def held_out(skills: list[str], count: int) -> list[Sample]:
    return [s for skill in skills for s in evaluation(SEED + SKILLS.index(skill), skill, count)]


def expected(sample: Sample) -> str:
    return answer_text(sample.messages[-1])


def calls_of(text: str) -> list[object] | None:
    """The calls written in an answer, compared as values: key order does not matter."""
    parts = [part.split("</tool_call>")[0] for part in text.split("<tool_call>")[1:]]
    try:
        return [json.loads(part) for part in parts] or None
    except json.JSONDecodeError:
        return None


def correct(sample: Sample, answer: str) -> bool:
    if sample.thinking:
        thought, mark, answer = answer.partition("</think>\n\n")
        if not mark or not thought.strip():
            return False
    calls = sample.messages[-1].get("tool_calls")
    if calls:
        return calls_of(answer) == calls_of("".join(call_text(call["function"]) for call in calls))
    return answer == expected(sample)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--skills", nargs="*", default=SKILLS)
    parser.add_argument("--show", type=int, default=0, help="print this many mistakes per skill")
    parser.add_argument("--save-samples", type=Path, help="write six questions per skill here")
    parser.add_argument("--card", action="store_true", help="write the model card with the table")
    options = parser.parse_args()
    if options.save_samples:
        lines = [json.dumps(asdict(sample)) for sample in held_out(options.skills, 6)]
        options.save_samples.write_text("\n".join(lines) + "\n")
    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(options.model))
    lines = ["| skill | exact | of |", "| --- | ---: | ---: |"]
    failed = []
    for skill in options.skills:
        samples = held_out([skill], options.count)
        prompts = [
            tokenizer.apply_chat_template(
                sample.messages[:-1], tools=sample.tools or None, add_generation_prompt=True,
                enable_thinking=sample.thinking,
            )
            for sample in samples
        ]  # fmt: skip
        texts = batch_generate(model, tokenizer, prompts, max_tokens=160).texts
        wrong = [pair for pair in zip(samples, texts, strict=True) if not correct(*pair)]
        share = 1 - len(wrong) / len(samples)
        mark = "" if skill not in EXTRA else " (extra)"
        lines.append(f"| {skill}{mark} | {share:.1%} | {len(samples)} |")
        print(lines[-1], flush=True)
        failed += [skill] if share < BAR and skill not in EXTRA else []
        for sample, text in wrong[: options.show]:
            asked = sample.messages[-2]["content"]
            print(f"    {asked!r}\n      wanted {expected(sample)!r}\n      got    {text!r}")
    if options.card:
        card = (Path(__file__).parent / "card.md").read_text()
        (options.model / "README.md").write_text(card.replace("{table}", "\n".join(lines)))
    print("below the bar: " + ", ".join(failed) if failed else "every skill is above the bar")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
