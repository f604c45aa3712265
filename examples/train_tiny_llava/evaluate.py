"""Exact answers per skill on held-out pictures, greedy, through the engine and the plugin.

python evaluate.py ../../plugins/budmlx-llava/budmlx_llava/assets/tiny --count 200
"""

import argparse
import json
import sys
from pathlib import Path

from cases import BARRED, SKILLS, VISION, as_json, cases

from budmlx import Engine

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1] / "plugins" / "budmlx-llava"
BAR = 0.9
SAMPLES = {"one object": 4, "two objects": 6, "counting to four": 6, "colour of a shape": 4}


def loaded(model: Path) -> Engine:
    """The model with the plugin of the working tree, whether or not one is installed."""
    sys.path.append(str(PLUGIN))
    return Engine.load(model, plugins=["budmlx_llava"], plugin_autoload=False, cache="off")


def small_samples(skill: str, count: int) -> list[str]:
    """Held-out cases as JSON; those with much noise are left out, since they take much room."""
    lines = (json.dumps(as_json(case)) for case in cases(skill, 20 * count))
    return [line for line in lines if len(line) < 2000][:count]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--skills", nargs="*", default=SKILLS)
    parser.add_argument("--show", type=int, default=0, help="print this many mistakes per skill")
    parser.add_argument("--save-samples", type=Path, help="write twenty questions here")
    parser.add_argument("--card", action="store_true", help="write the model card with the table")
    options = parser.parse_args()
    if options.save_samples:
        lines = [line for skill, count in SAMPLES.items() for line in small_samples(skill, count)]
        options.save_samples.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    lines = ["| skill | exact | of |", "| --- | ---: | ---: |"]
    failed = []
    with loaded(options.model) as engine:
        for skill in options.skills:
            asked = cases(skill, options.count)
            conversations = [case.messages for case in asked]
            replies = engine.chat_many(
                conversations, temperature=0, max_tokens=64, progress=sys.stderr.isatty()
            )
            pairs = zip(asked, (reply.text for reply in replies), strict=True)
            wrong = [(case, text) for case, text in pairs if text != case.answer]
            share = 1 - len(wrong) / len(asked)
            notes = ["text only"] * (skill not in VISION) + ["extra"] * (skill not in BARRED)
            mark = f" ({', '.join(notes)})" if notes else ""
            lines.append(f"| {skill}{mark} | {share:.1%} | {len(asked)} |")
            print(lines[-1], flush=True)
            failed += [skill] if share < BAR and skill in BARRED else []
            for case, text in wrong[: options.show]:
                print(f"    {case.question!r}\n      wanted {case.answer!r}\n      got    {text!r}")
    if options.card:
        card = (HERE / "card.md").read_text()
        (options.model / "README.md").write_text(card.replace("{table}", "\n".join(lines)))
    print("below the bar: " + ", ".join(failed) if failed else "every skill is above the bar")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
