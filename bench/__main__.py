"""`python -m bench`, which `make bench` calls: measure, print tables, keep a record."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.contestants import NO_REUSE, OURS, contestants
from bench.host_work import BASELINE
from bench.machine import Device, blas_environment, describe, device
from bench.model import cached_model
from bench.plot import save_plot
from bench.report import document
from bench.results import keep
from bench.rounds import Run, RunSettings, run_embedded, run_servers
from bench.scenarios import FLAT, QUICK, SMOLLM2, Bodies, scenarios
from bench.subjects import Subject, context_of, subjects

HERE = Path(__file__).parent
EMBEDDED = (
    *("bare", "core", "engine", "prefill", "sampled-step", "host-work"),
    *("adapters", "models", "long-row", "prefix", "images", "speculation", "balancer", "ranks"),
    *("background", "vectors", "vectors-mixed", "vectors-memory", "vectors-chat"),
)


def main() -> int:
    """Run the measurements of the arguments; 1 when one of budmlx failed."""
    options = parse()
    begin = time.monotonic()
    found = device()
    model = options.model or cached_model(found.kind, "peaked")
    facts = describe_all(options, model, found)
    output = options.output or HERE / "out" / time.strftime("%Y%m%d-%H%M%S")
    output.mkdir(parents=True, exist_ok=True)
    wanted = choose(options, model)
    run = Run(gpu=found.gpu)
    main_settings = settings_of(options, Subject("main", model, []), found, output)
    run_embedded(main_settings, [w for w in EMBEDDED if w in wanted], options.repeats, run)
    for subject in subjects(model, found, set(wanted), say):
        present, _ = contestants(subject.path, options.server)
        settings = settings_of(options, subject, found, output)
        run_servers(settings, present, subject.scenarios, options.repeats, run)

    facts["duration"] = f"{(time.monotonic() - begin) / 60:.1f} minutes"
    print("\n" + "\n\n".join(document(run, facts)) + "\n")
    broken = failed(run)
    for place in [output, HERE] if options.write_results and not broken else [output]:
        keep(run, facts, found, place, save_plot)
        print(f"written: {place}/RESULTS.md, {found.slug}.json")
    return int(broken)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def describe_all(options: argparse.Namespace, model: Path, found: Device) -> dict[str, str]:
    """The facts of a run, which are printed, too."""
    config = json.loads((model / "config.json").read_text())
    facts = {
        "device": found.name,
        **describe(),
        "blas": blas_environment(found)[1],
        "model": describe_model(model, config),
        "rounds": str(options.repeats),
    }
    if options.baseline:
        facts["baseline of the host's work"] = options.baseline.resolve().name
    if options.note:
        facts["note"] = options.note
    _, absent = contestants(model, options.server)
    for line in (*(f"{name}: {value}" for name, value in facts.items()), *absent):
        say(line)
    return facts


def settings_of(
    options: argparse.Namespace, subject: Subject, found: Device, output: Path
) -> RunSettings:
    """What the rounds of one model share."""
    environment, _ = blas_environment(found)
    if options.baseline:
        environment[BASELINE] = str(options.baseline.resolve())
    logs = output / subject.name
    logs.mkdir(exist_ok=True)
    bodies = Bodies(subject.path, run=output.name)
    return RunSettings(
        model=subject.path, environment=environment, logs=logs, bodies=bodies, say=say
    )


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
    parser.add_argument(
        "--baseline", type=Path, metavar="CHECKOUT", help="one whose host's work is measured, too"
    )
    parser.add_argument("--note", help="what a reader must know of this run")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def choose(options: argparse.Namespace, model: Path) -> list[str]:
    """The measurements to run; a model that is given gets those of the main one alone."""
    own = [*(scenario.name for scenario in scenarios(context_of(model))), *EMBEDDED]
    others = [scenario.name for scenario in (*FLAT, *SMOLLM2)]
    if options.only:
        if unknown := set(options.only) - {*own, *others}:
            known = ", ".join([*own, *others])
            raise SystemExit(f"Unknown: {', '.join(unknown)}. Known: {known}.")
        return list(options.only)
    if options.quick:
        return [*QUICK, "bare", "engine"]
    return own if options.model else [*own, *others]


def describe_model(path: Path, config: dict[str, object]) -> str:
    """A model in words, without the directories above it."""
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return f"{path.name} ({config.get('model_type')}, {size / 2**20:.0f} MiB of weights)"


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
