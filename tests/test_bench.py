"""The bench's own pieces, on a tiny model and a real server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import budmlx
from bench import (
    adapters,
    background,
    embedded,
    goals,
    host_work,
    models,
    pictures,
    prefill,
    report,
    reuse,
    sampled_step,
    speculation,
    vectors,
)
from bench.contestants import NO_REUSE, Contestant, contestants
from bench.machine import Device
from bench.measure import join_metrics, measure
from bench.model import cache_root
from bench.rounds import Run, RunSettings, run_servers
from bench.scenarios import (
    FLAT,
    GREEDY,
    QUICK,
    SMOLLM2,
    Bodies,
    ClosedLoop,
    FirstLoad,
    Join,
    Turns,
    scenarios,
)
from bench.subjects import subjects
from budmlx.benchmark.load import Load, Sample, summarize
from budmlx.benchmark.server_process import ServerProcess, SpawnError
from budmlx.cli.app import app
from tests.models import tiny_model_dir
from tests.vision_plugin import write_vision_model

ENDLESS = {**GREEDY, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir(scale=4.0))]
    with ServerProcess(command, log=tmp_path_factory.mktemp("bench") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def bodies() -> Bodies:
    return Bodies(tiny_model_dir(scale=4.0))


def loop(**changes: object) -> ClosedLoop:
    fields = {"name": "x-3", "users": 3, "requests": 7, "options": ENDLESS, "max_tokens": (5, 9)}
    return ClosedLoop(**{**fields, **changes})  # type: ignore[arg-type]


def test_closed_loop_measures_replies_of_exact_length(
    server: ServerProcess, bodies: Bodies
) -> None:
    metrics = measure(server.url, server.model, loop(), bodies, 0)
    assert "problem" not in metrics
    assert metrics["requests"] == 7
    assert metrics["early"] == 0
    assert 30 <= metrics["prompt_tokens"] <= 80
    assert metrics["tokens_per_second"] > 0
    assert 0 < metrics["ttft_p50"] <= metrics["ttft_p95"]


def test_a_refused_parameter_is_a_result(server: ServerProcess, bodies: Bodies) -> None:
    metrics = measure(server.url, server.model, loop(options={"temperature": 9.0}), bodies, 0)
    assert metrics["problem"].startswith("refused (400)")
    assert "temperature" in metrics["problem"]


def test_a_server_that_is_not_there_is_a_failure(bodies: Bodies) -> None:
    metrics = measure("http://127.0.0.1:9", "m", loop(requests=1), bodies, 0)
    assert metrics["problem"].startswith("failed (0)")


def test_probes_join_running_streams(server: ServerProcess, bodies: Bodies) -> None:
    scenario = Join(
        name="late",
        streams=2,
        stream_tokens=8000,
        probes=2,
        alone=1,
        probe_tokens=4,
        prompt_tokens=40,
        options=ENDLESS,
    )
    metrics = measure(server.url, server.model, scenario, bodies, 0)
    assert "problem" not in metrics
    assert metrics["ttft_alone"] > 0
    assert metrics["ttft_p50"] > 0
    assert 0 < metrics["quiet_p50"] <= metrics["quiet_p95"]
    assert metrics["prefill_p95"] > 0


def test_a_conversation_computes_each_token_once(server: ServerProcess, bodies: Bodies) -> None:
    scenario = Turns(name="turns", turns=4, max_tokens=6, options=ENDLESS)
    metrics = measure(server.url, server.model, scenario, bodies, 0)
    assert "problem" not in metrics
    assert metrics["distinct"] > 4 * 40
    # The first prompt, and what is new in each other one.
    assert metrics["distinct"] / 2 < metrics["computed"] <= metrics["distinct"] + 4
    assert metrics["total"] > metrics["ttft_p50"] > 0
    scenario = Turns(name="turns", turns=2, options={"temperature": 9.0})
    problem = measure(server.url, server.model, scenario, bodies, 0)["problem"]
    assert problem.startswith("refused (400)")


def test_the_first_load_is_the_first_thing_that_a_server_gets(
    server: ServerProcess, bodies: Bodies, tmp_path: Path
) -> None:
    scenario = FirstLoad(name="first-3", users=3, max_tokens=4, options=ENDLESS)
    metrics = measure(server.url, server.model, scenario, bodies, 0)
    assert sorted(metrics) == ["first", "second"]
    assert min(metrics.values()) > 0
    refused = FirstLoad(name="first-3", users=3, options={"temperature": 9.0})
    assert "problem" in measure(server.url, server.model, refused, bodies, 0)

    setting = RunSettings(
        model=Path("model"), environment={}, logs=tmp_path, bodies=bodies, say=lambda _: None
    )
    ends = Contestant("one", [sys.executable, "-c", "pass"])
    run = Run()
    run_servers(setting, [ends], [loop(name="greedy-3"), scenario], 1, run)
    assert list(run.servers) == ["first-3", "greedy-3"]


def test_users_share_a_system_message_that_rounds_do_not(bodies: Bodies) -> None:
    first, again, other = (
        bodies.closed_loop(loop(shared_tokens=300), "m", repeat) for repeat in (0, 0, 1)
    )
    assert again == first
    systems = {body["messages"][0]["content"] for body in first}
    assert len(systems) == 1
    assert bodies.count(*systems) == pytest.approx(300, rel=0.1)
    assert {body["messages"][0]["role"] for body in first} == {"system"}
    assert not systems & {body["messages"][0]["content"] for body in other}
    assert len({body["messages"][1]["content"] for body in first}) == 7


def test_a_contestant_may_run_some_scenarios_only(tmp_path: Path, bodies: Bodies) -> None:
    [no_reuse], _ = contestants(Path("model"), [NO_REUSE])
    assert no_reuse.command[-2:] == ["--prefix-cache", "0"]
    assert no_reuse.only == ("greedy-16", "sampled-16")
    setting = RunSettings(
        model=Path("model"), environment={}, logs=tmp_path, bodies=bodies, say=lambda _: None
    )
    known = [loop(name="greedy-1"), loop(name="greedy-16", ours=True)]
    ends = [sys.executable, "-c", "pass"]
    one = Contestant("one", ends, only=("greedy-16",))
    run = Run()
    run_servers(setting, [one, replace(one, name="none", only=("other",))], known, 1, run)
    assert run.servers == {"greedy-16": {"one": [{"problem": "failed: did not start"}]}}
    assert not list(tmp_path.glob("none*"))


def test_command_prints_a_line_for_each_number_of_users(server: ServerProcess) -> None:
    arguments = ["bench", "--url", f"{server.url}/v1", "--users", "1", "--users", "2"]
    options = ["--requests", "1", "--max-tokens", "4", "--ignore-eos"]
    result = CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert server.model in result.output
    assert "2 users done" in result.output
    assert "ended early" not in result.output


def test_command_compares_edits_with_drafts_and_without(server: ServerProcess) -> None:
    arguments = ["bench", "--url", server.url, "--users", "1", "--edit", "--requests", "1"]
    result = CliRunner().invoke(app, [*arguments, "--max-tokens", "4"], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "1, no drafts" in result.output and "1, drafts" in result.output
    assert "failed" not in result.output and "refused" not in result.output


def test_a_server_that_ends_shows_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with pytest.raises(SpawnError, match="no such model"):
        ServerProcess(command, log=tmp_path / "log")


def test_throughput_counts_only_while_every_user_was_busy() -> None:
    first = Sample(chunks=[1.0, 2.0], ended=2.0, status=200, completion_tokens=4, expected=4)
    second = Sample(
        chunks=[1.0, 3.0, 5.0, 7.0], ended=7.0, status=200, completion_tokens=4, expected=4
    )
    summary = summarize(Load([first, second], start=0.0, end=2.0))
    # Two pieces of two tokens each, and one of the other's pieces of one token.
    assert summary.tokens_per_second == pytest.approx((2 * 2 + 1) / 2)
    assert summary.ttft_p50 == 1.0
    assert summary.itl_p50 == 2.0
    assert summary.early == 0


def test_streams_that_end_before_the_probe_are_no_measurement() -> None:
    sample = {"sent": 0.0, "chunks": [1.0, 2.0], "status": 200, "finish_reason": "length"}
    seen = {"alone": [], "streams": [sample], "probes": [sample], "quiet": [0, 1], "over": 2}
    assert "before the last probe" in join_metrics(seen)["problem"]


def test_prompts_differ_between_requests_and_rounds_but_not_between_servers(
    bodies: Bodies,
) -> None:
    first = bodies.closed_loop(loop(seeded=True), "a", 0)
    again = bodies.closed_loop(loop(seeded=True), "b", 0)
    other = bodies.closed_loop(loop(seeded=True), "a", 1)
    assert [{**body, "model": "a"} for body in again] == first
    prompts = {body["messages"][0]["content"] for body in [*first, *other]}
    assert len(prompts) == 14
    long = bodies.closed_loop(loop(prompt_tokens=900), "a", 0)[0]["messages"][0]["content"]
    assert bodies.count(long) == pytest.approx(900, rel=0.1)


def test_every_quick_scenario_exists(bodies: Bodies) -> None:
    names = [scenario.name for scenario in (*scenarios(8192), *FLAT, *SMOLLM2)]
    assert set(QUICK) <= set(names)
    assert len(names) == len(set(names))


def test_missing_servers_are_named_with_the_reason() -> None:
    present, absent = contestants(Path("model"), ["budmlx", "mlx_lm.server"])
    assert [contestant.name for contestant in present] == ["budmlx", "mlx_lm.server"]
    names = (NO_REUSE, "vllm-mlx", "mlx-vlm")
    assert absent == [f"{name}: not asked for" for name in names]
    with pytest.raises(SystemExit, match="other"):
        contestants(Path("model"), ["other"])


def test_time_to_first_token_with_stored_kv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = reuse.Sizes(shared=300, slow=1, quick=1)
    found = embedded.WHAT["prefix"](tiny_model_dir(scale=4.0), sizes)
    assert found["hit_tokens"] == 300
    assert found["disk_tokens"] == 256
    assert min(found[name] for name in ("cold", "hit", "in_place", "disk")) > 0
    assert not list(cache_root().iterdir())


def test_pictures_new_and_seen(tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert "no config.json" in embedded.WHAT["images"](tmp_path, model=model)["problem"]
    write_vision_model(model)
    sizes = pictures.Sizes(users=3, tokens=4, rounds=1)
    found = embedded.WHAT["images"](tmp_path, sizes, model=model, plugin="tests.vision_plugin")
    names = ["tokens_per_second", "ttft_p50", "seen_tokens_per_second", "seen_ttft_p50"]
    assert list(found) == names
    assert min(found.values()) > 0


def test_embedded_measurements_run() -> None:
    sizes = embedded.Sizes(steps=60, settle=4, long_prompt=600, long_row_steps=8)
    path = tiny_model_dir(scale=4.0)
    for what in ("bare", "core", "engine"):
        assert min(embedded.WHAT[what](path, sizes).values()) > 0
    long_row = embedded.WHAT["long-row"](path, sizes)
    assert long_row["weights_bytes"] < long_row["peak_bytes"] <= long_row["projected_bytes"]


def test_prefill_is_compared_with_the_bare_loops_best_chunk() -> None:
    sizes = prefill.Sizes(prompt=300, chunks=(16, 300), rounds=1)
    found = embedded.WHAT["prefill"](tiny_model_dir(scale=4.0), sizes)
    assert found["prompt_tokens"] == 300
    assert found["chunks"][str(found["best_chunk"])] == found["best_tokens_per_second"]
    assert found["best_tokens_per_second"] == max(found["chunks"].values())
    run = Run(
        embedded={"prefill": [{**found, "tokens_per_second": 80, "best_tokens_per_second": 100}]}
    )
    assert report.prefill_table(run)[1][1:3] == ["80", "0.80x"]
    assert len(report.prefill_table(run)) == 4


def test_a_sampled_step_is_compared_with_a_greedy_one() -> None:
    sizes = sampled_step.Sizes(steps=2, settle=1, rounds=1)
    found = embedded.WHAT["sampled-step"](tiny_model_dir(scale=4.0), sizes)
    steps = [f"{logits}_{kind}" for logits in ("peaked", "flat") for kind in ("greedy", "sampled")]
    assert list(found) == ["vocab", *steps]
    assert min(found[step] for step in steps) > 0


def test_a_step_with_adapters_is_compared_with_one_without() -> None:
    sizes = adapters.Sizes(steps=2, settle=1, rounds=1)
    found = embedded.WHAT["adapters"](tiny_model_dir(scale=4.0), sizes)
    assert list(found) == [f"{w}_{kind}" for w in ("float32", "4bit") for kind in adapters.KINDS]
    assert min(found.values()) > 0
    packed = embedded.WHAT["adapters"](tiny_model_dir(bits=4, scale=4.0), sizes)
    assert list(packed) == [f"4bit_{kind}" for kind in adapters.KINDS]
    costs = {"none": 1.0, "unused": 1.0, "four": 1.12, "sixteen": 1.3}
    rounds = [{f"{w}_{kind}": cost for w in ("float32", "4bit") for kind, cost in costs.items()}]
    bars = goals.bars(Run(embedded={"adapters": rounds}))
    reached = [bar.reached for bar in bars if "adapters" in bar.name]
    assert reached == [True, True, True, True, False, True]
    rows = report.steps_table(Run(embedded={"adapters": rounds}))[1:]
    assert rows[4][1:4] == ["1120.00 ms", "1000.00 ms", "1.12x"]


def test_two_models_are_compared_with_one() -> None:
    sizes = models.Sizes(requests=4, words=4)
    found = embedded.WHAT["models"](tiny_model_dir(scale=4.0), sizes)
    assert 0 < found["one"] < found["load"] and found["turns"] > 0
    assert found["returned"] > 0.5  # processes of their own, which are gone
    rounds = [{"one": 0.1, "turns": 0.11, "load": 2.0, "returned": 1.0}]
    bars = goals.bars(Run(embedded={"models": rounds}))
    wanted = ("two models", "a model that", "memory back")
    assert [bar.reached for bar in bars if bar.name.startswith(wanted)] == [False, True, True]
    assert report.steps_table(Run(embedded={"models": rounds}))[1][1:4] == [
        "110.00 ms",
        "100.00 ms",
        "1.10x",
    ]


def test_rows_say_their_scripts_with_drafts_and_without() -> None:
    path = Path(budmlx.__file__).parent / "assets" / "tiny"
    kinds = ["replace_1", "predicted_1", "json_1"]
    found = speculation.speculation(path, kinds, speculation.Sizes(pairs=1, tokens=16, file=300))
    assert len(found) == 6 and all(value > 0 for value in found.values())
    rounds = [{f"{kind}_ratio": 1.4 for kind in speculation.KINDS}]
    bars = goals.bars(Run(embedded={"speculation": rounds}))
    reached = [bar.reached for bar in bars if "with drafts" in bar.name]
    assert reached == [False, False, True, False, False, False, True, True, True]


def test_the_hosts_work_is_the_rest_of_a_step() -> None:
    sizes = host_work.Sizes(short=2, long=12, rounds=1)
    found = host_work.measure(tiny_model_dir(scale=4.0), sizes)
    assert list(found) == ["single_host", "single_bare", "sixteen_host", "sixteen_bare"]
    work = {**found, "single_host": 200.0, "baseline_single_host": 500.0}
    work |= {"sixteen_host": 900.0, "baseline_sixteen_host": 1000.0}
    run = Run(embedded={"host-work": [work]})
    reached = [bar.reached for bar in goals.bars(run) if "host's work" in bar.name]
    assert reached == [True, False]
    assert report.steps_table(run)[1][1:4] == ["200 us", "500 us", "0.40x"]


def test_a_balancer_costs_a_share() -> None:
    rounds = [{"tokens_per_second": 900.0, "nginx": 0.97, "haproxy": 0.9}]
    found = {bar.name: bar.reached for bar in goals.bars(Run(embedded={"balancer": rounds}))}
    assert [found[name] for name in found if "32 users through" in name] == [True, False]
    none = goals.bars(Run(embedded={"balancer": [{"tokens_per_second": 900.0}]}))
    assert not any("32 users through" in bar.name for bar in none)


def test_ranks_have_bars_where_they_can_gain() -> None:
    rounds = [{"gain_16": 1.3, "gain_1": 0.5, "decisions": 0.01}]
    found = {bar.name: bar.reached for bar in goals.bars(Run(embedded={"ranks": rounds}))}
    assert found["2 ranks against 1 process, 16 rows, tokens/s"]
    assert not found["the same, 1 row"] and found["rank 0's messages, of a step of 16 rows"]
    gpu = goals.bars(Run(embedded={"ranks": rounds}, gpu=True))
    assert not any("2 ranks" in bar.name for bar in gpu)


def test_a_model_that_is_given_is_measured_alone(tmp_path: Path) -> None:
    main = tiny_model_dir(scale=4.0)
    device = Device("Some CPU", gpu=False)
    [only] = subjects(main, device, {"greedy-16", "prefill"}, print)
    assert (only.path, [scenario.name for scenario in only.scenarios]) == (main, ["greedy-16"])


def test_vectors_and_background_work(tmp_path: Path) -> None:
    path = tiny_model_dir(scale=2.0)
    few = vectors.Sizes(1, many=6, mixed=6, longest=24, rows=2, row_length=40, chat=20)
    batch = background.Sizes(pairs=1, rows=4, tokens=4, users=2, steps=8)
    found = {
        "vectors": vectors.vectors(path, few),
        "vectors-mixed": vectors.mixed_vectors(path, few),
        "vectors-memory": vectors.vectors_memory(path, few),
        "vectors-chat": vectors.vectors_beside_chat(path, few),
        "background": background.background(path, batch),
    }
    assert all(value >= 0 for each in found.values() for value in each.values())
    assert found["background"]["steps_later"] <= 2
    bars = goals.bars(Run(embedded={name: [each] for name, each in found.items()}))
    wanted = [bar for bar in bars if "vectors" in bar.name or "batch" in bar.name]
    assert len(wanted) == 8 and all(bar.value is not None for bar in wanted)
