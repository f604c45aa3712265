"""The bench's goals, tables and kept results, from invented metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import goals, report, results
from bench.contestants import NO_REUSE
from bench.machine import Device
from bench.rounds import Run


def test_ratios_are_medians_of_rounds_and_bars_know_their_side() -> None:
    run = Run()
    for ours, theirs in ((300, 100), (100, 100), (220, 110)):
        run.add("greedy-16", "budmlx", {"tokens_per_second": ours})
        run.add("greedy-16", "mlx_lm.server", {"tokens_per_second": theirs})
    run.embedded["long-row"] = [
        {"quiet_step": 1.0, "beside_step": 2.5, "peak_bytes": 1, "projected_bytes": 2}
    ]
    bars = {bar.name: bar for bar in goals.bars(run)}
    greedy = bars["greedy-16, tokens/s against mlx_lm.server"]
    assert greedy.value == 2.0
    assert greedy.reached
    slowdown = bars["15 short rows' steps beside a 4,000-token row"]
    assert slowdown.value == 2.5
    assert not slowdown.reached
    assert bars["seeded-16, tokens/s against mlx_lm.server"].value is None
    assert "2.00x" in report.markdown(report.loops_table(run))


def test_reuse_has_its_goals_and_tables() -> None:
    run = Run()
    for cold, hit in ((2.0, 0.08), (2.0, 0.1), (2.0, 0.2)):
        run.embedded.setdefault("prefix", []).append(
            {"cold": cold, "hit": hit, "in_place": 0.08, "disk": 0.3, "hit_tokens": 4000}
        )
    speed = {"tokens_per_second": 10.0, "ttft_p50": 2.0}
    run.embedded["images"] = [{**speed, "seen_tokens_per_second": 15.0, "seen_ttft_p50": 0.5}]
    run.add("greedy-16", "budmlx", {"tokens_per_second": 96.0})
    run.add("greedy-16", NO_REUSE, {"tokens_per_second": 100.0})
    run.add("shared-16", "budmlx", {"tokens_per_second": 200.0, "ttft_p50": 0.2})
    run.add("shared-16", "mlx_lm.server", {"tokens_per_second": 100.0, "ttft_p50": 1.0})
    talk = {"turns": 20, "total": 4.0, "ttft_p50": 0.1, "distinct": 1000}
    run.add("turns-20", "budmlx", {**talk, "computed": 1021})
    run.add("turns-20", "mlx_lm.server", {**talk, "total": 8.0})
    found = [(bar.value, bar.reached) for bar in goals.bars(run) if bar.value is not None]
    expected = [(2, True), (0.2, True), (5, True), (1.25, True), (15, True), (0.5, True)]
    assert found == [*expected, (1021 / 1020, False), (0.96, False)]

    assert NO_REUSE not in report.markdown(report.loops_table(run))
    assert "turns-20" not in report.markdown(report.loops_table(run))
    rows = {row[0]: row[1:] for row in report.reuse_table(run)[1:]}
    assert rows["the same, on disk"] == ["300 ms", "2000 ms", "0.150x", ""]
    assert rows["greedy-16, nothing matches, tok/s"] == ["96", "100", "0.96x", ""]
    ours, theirs = report.turns_table(run)[1:]
    assert ours[2:7] == ["4000 ms", "", "100 ms", "1021", "1000"]
    assert theirs[2:7] == ["8000 ms", "0.50x", "100 ms", "", "1000"]
    assert report.pictures_table(run)[-1][1:3] == ["1.50x", "0.25x"]


def test_a_gpu_has_bars_of_its_own() -> None:
    def limits(gpu: bool) -> dict[str, float]:
        return {bar.name: bar.limit for bar in goals.bars(Run(gpu=gpu))}

    on_cpu, on_gpu = limits(False), limits(True)
    assert set(on_gpu) - set(on_cpu) == {
        "1 greedy row in the Engine, share of bare loop",
        "prefill alone, of bare loop at its best chunk",
    }
    greedy = "greedy-16, tokens/s against mlx_lm.server"
    assert (on_cpu[greedy], on_gpu[greedy]) == (1.3, 1.8)


def test_results_of_a_device_replace_its_section_alone(tmp_path: Path) -> None:
    cpu, gpu = Device("Some CPU, 2 cores", gpu=False), Device("Some GPU", gpu=True)

    def keep(note: str, device: Device, drawn: bool = False) -> None:
        facts = {"model": "m", "note": note}
        results.keep(Run(gpu=device.gpu), facts, device, tmp_path, lambda *_: drawn)

    keep("note 1", cpu)
    keep("note 2", gpu, drawn=True)
    keep("note 3", cpu)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith(results.LEAD)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Some CPU, 2 cores", "## Some GPU"]
    assert ("(some-gpu.png)" in text, "(some-cpu-2-cores.png)" in text) == (True, False)
    assert [word in text for word in ("note 1", "note 2", "note 3")] == [False, True, True]
    assert text.index("note 3") < text.index("note 2")
    assert json.loads((tmp_path / "some-gpu.json").read_text())["gpu"] is True
    assert json.loads((tmp_path / "some-cpu-2-cores.json").read_text())["facts"]["note"] == "note 3"


def test_plot_needs_several_numbers_of_users(tmp_path: Path) -> None:
    plot = pytest.importorskip("bench.plot", exc_type=ImportError)
    metrics = {"tokens_per_second": 100.0, "ttft_p50": 0.1, "itl_p95": 0.02}
    run = Run()
    run.add("greedy-1", "budmlx", metrics)
    assert not plot.save_plot(run, tmp_path / "plot.png", "title")
    run.add("greedy-4", "budmlx", metrics)
    assert plot.save_plot(run, tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
