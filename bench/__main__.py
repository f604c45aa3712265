"""`python -m bench`, which `make bench` calls: measure, print tables, keep a record."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from bench.contestants import NO_REUSE, OURS, contestants
from bench.machine import blas_environment, describe
from bench.model import cached_model
from bench.plot import save_plot
from bench.report import document
from bench.rounds import Run, RunSettings, run_embedded, run_servers
from bench.scenarios import QUICK, Bodies, scenarios

HERE = Path(__file__).parent
EMBEDDED = ("bare", "core", "engine", "long-row", "prefix", "images")
LEAD = """# Results of the last kept run

`make bench` measures; `python -m bench --write-results` also writes this file. TTFT is the
time to the first token, ITL the time between tokens of one stream, both as the client sees
them. Values are medians over the rounds of one run; "budmlx is" compares tokens per second
of the same round.
"""


def main() -> int:
    """Run the measurements of the arguments; 1 when one of budmlx failed."""
    options = parse()
    begin = time.monotonic()
    model = options.model or cached_model()
    config = json.loads((model / "config.json").read_text())
    environment, blas = blas_environment()
    present, absent = contestants(model, options.server)
    facts = {**describe(), "blas": blas, "model": describe_model(model, config)}
    for line in (*(f"{name}: {value}" for name, value in facts.items()), *absent):
        print(line, flush=True)

    output = options.output or HERE / "out" / time.strftime("%Y%m%d-%H%M%S")
    output.mkdir(parents=True, exist_ok=True)
    setting = RunSettings(
        model=model,
        environment=environment,
        logs=output,
        bodies=Bodies(model, run=output.name),
        say=lambda text: print(text, flush=True),
    )
    known = scenarios(int(config.get("max_position_embeddings", 4096)))
    names = [*(scenario.name for scenario in known), *EMBEDDED]
    wanted = choose(options, names)
    run = Run()
    run_embedded(setting, [w for w in EMBEDDED if w in wanted], options.repeats, run)
    chosen = [scenario for scenario in known if scenario.name in wanted]
    if chosen:
        run_servers(setting, present, chosen, options.repeats, run)

    if options.note:
        facts["note"] = options.note
    facts["rounds"] = str(options.repeats)
    facts["duration"] = f"{(time.monotonic() - begin) / 60:.1f} minutes"
    broken = failed(run)
    keep(run, facts, output, write_results=options.write_results and not broken)
    return int(broken)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--model", type=Path, help="model directory; default: a generated one")
    parser.add_argument("--quick", action="store_true", help="a subset, one round")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this measurement")
    parser.add_argument("--server", action="append", default=[], help="only this server")
    parser.add_argument("--repeats", type=int, help="rounds; default 3, or 1 with --quick")
    parser.add_argument("--output", type=Path, help="directory for record, plot and logs")
    parser.add_argument("--write-results", action="store_true", help="update bench/RESULTS.md")
    parser.add_argument("--note", help="what a reader must know of this run")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def choose(options: argparse.Namespace, names: list[str]) -> list[str]:
    """The measurements to run."""
    if options.only:
        if unknown := set(options.only) - set(names):
            raise SystemExit(f"Unknown: {', '.join(unknown)}. Known: {', '.join(names)}.")
        return list(options.only)
    return [*QUICK, "bare", "engine"] if options.quick else names


def describe_model(path: Path, config: dict[str, object]) -> str:
    """A model in words, without the directories above it."""
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return f"{path.name} ({config.get('model_type')}, {size / 2**20:.0f} MiB of weights)"


def keep(run: Run, facts: dict[str, str], output: Path, *, write_results: bool) -> None:
    """Print the report and write record and plot, and on request the results in the tree."""
    report = "\n\n".join(document(run, facts))
    print(f"\n{report}\n")
    places = [output, HERE] if write_results else [output]
    for place in places:
        record = {"facts": facts, **asdict(run)}
        (place / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        plotted = save_plot(run, place / "results.png", facts["model"])
        picture = ["![throughput and latency against users](results.png)"] if plotted else []
        (place / "RESULTS.md").write_text("\n\n".join([LEAD.rstrip(), report, *picture]) + "\n")
        print(f"written: {place}/RESULTS.md, results.json{', results.png' if plotted else ''}")


def failed(run: Run) -> bool:
    """Whether a measurement of our own came to nothing; a refusal is an answer."""
    ours = [
        metrics
        for by_server in run.servers.values()
        for name in (OURS, NO_REUSE)
        for metrics in by_server.get(name, ())
    ]
    ours += [m for rounds in run.embedded.values() for m in rounds]
    return any(m.get("problem", "").startswith("failed") for m in ours)


if __name__ == "__main__":
    sys.exit(main())
