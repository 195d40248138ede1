"""The measurements of the engine: every part runs on a CPU, in a tiny size; and what their figures mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interpreted import needs_triton

from quire.clients.bench.published import PUBLISHED, write_model
from quire.engine import messages as m
from quire.engine.errors import ConfigError
from quire.engine.measure import decode, gap, kernels, machine, modes, throughput
from quire.engine.measure.report import Place, Report
from quire.engine.measure.running import Bench, Course
from quire.kernels.triton import chosen

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    models = tmp_path_factory.mktemp("models")
    for name in PUBLISHED:
        write_model(name, models / name, tiny=True)
    return Place(models, CPU, tiny=True)


def rows_of(path: Path) -> dict[str, dict]:
    return {row["key"]: row for row in map(json.loads, path.read_text().splitlines())}


def measured(part, place: Place, tmp_path: Path) -> dict[str, dict]:
    report = Report(tmp_path / "rows", 600)
    part.measure(report, place)
    found = rows_of(tmp_path / "rows")
    assert not any("error" in row for row in found.values()), found
    assert not report.failed
    return found


def test_what_a_machine_copies_and_multiplies(place, tmp_path):
    found = measured(machine, place, tmp_path)
    assert set(found) == {"machine.copy", "machine.dense"}
    assert 0.01 < found["machine.copy"]["value"] < 1e5


def test_one_answer_at_a_time(place, tmp_path):
    found = measured(decode, place, tmp_path)
    assert {f"decode.{key}.rate" for key in ("8b.bfloat16", "8b.int8", "8b.int4", "1b.bfloat16")} <= set(found)
    assert found["decode.8b.int8.gain"]["value"] > 0
    assert "fp8" in found["decode.8b.fp8"]["left_out"]  # which the CPU refuses


def test_the_bytes_of_a_step_are_those_of_the_products(place):
    """8b: not tied. Twin: 64 wide, 128 inner, 640 tokens, two layers, in bfloat16."""
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128
    for model in ("llama-3.1-8b", "llama-3.2-1b"):
        assert decode.read_bytes(Bench(place, model)) == 2 * (2 * layer + 640 * 64)


@pytest.mark.slow
def test_every_mode_is_measured_and_the_ways_chosen_stay_as_they_were(place, tmp_path):
    before = dict(chosen.WAYS)
    found = measured(modes, place, tmp_path)
    assert {key for key in found if key.endswith(".step")} >= {
        f"modes.qwen3-0.6b.{name}.step" for name in ("plain", "no_graphs", "neither", "deterministic", "sampled_torch")
    }
    assert found["modes.llama-3.1-8b.deterministic.step"]["note"].endswith("times plain")
    assert before == chosen.WAYS


def test_how_long_a_device_is_busy(place):
    """Of the CPU, as there is no other: less than a step takes, more than nothing."""
    bench = Bench(place, "qwen3-0.6b", attention="torch")
    busy = modes.device_seconds(bench, 2, 8, 16, "CPU", 4)
    assert 0 < busy < 10
    with pytest.raises(RuntimeError, match="fewer than 40 frames"):
        modes.device_seconds(bench, 2, 8, 16, "CPU", 40)


def test_a_long_prompt_comes_in(place, tmp_path):
    found = measured(gap, place, tmp_path)
    ratio = found["gap.during"]["value"] / found["gap.quiet"]["value"]
    assert found["gap.ratio"]["value"] == pytest.approx(ratio)


def test_many_at_once(place, tmp_path):
    found = measured(throughput, place, tmp_path)
    assert found["throughput.output"]["value"] == found["throughput.first.12"]["value"] > 0


def test_many_at_once_and_too_little_time(place, tmp_path, monkeypatch):
    """What was given until then counts, and the whole is not told."""
    monkeypatch.setattr(throughput, "ANSWER_TINY", 1500)
    monkeypatch.setattr(throughput, "LEAST", 0.2)
    monkeypatch.setattr(throughput, "PART_TINY", 10)
    report = Report(tmp_path / "rows", 0.0)
    throughput.measure(report, place)
    found = rows_of(tmp_path / "rows")
    assert "the time was over when each had" in found["throughput.output"]["left_out"]
    assert found["throughput.first.10"]["value"] > 0
    assert "throughput.first.1500" not in found


def test_without_triton_its_kernels_are_not_measured(place, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = measured(kernels, place, tmp_path)
    assert set(found) == {"kernels"}
    assert "not on CUDA" in found["kernels"]["left_out"] or "not installed" in found["kernels"]["left_out"]


@pytest.mark.slow
@pytest.mark.parametrize("part", [pytest.param("kernels", marks=needs_triton), "attention", "transformers"])
def test_the_parts_that_take_their_time(part, place, tmp_path):
    """In a process of its own, where Triton interprets."""
    command = [sys.executable, "-m", "quire.engine.measure", part, "--models", str(place.models), "--device", "cpu"]
    command += ["--out", str(tmp_path / "rows"), "--tiny", "--seconds", "600"]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, timeout=900)
    assert done.returncode == 0
    found = rows_of(tmp_path / "rows")
    keys = {
        "kernels": set(kernels.CASES),
        "attention": {"prompt"},
        "transformers": {"first", "step", "output"},
    }
    assert {key.split(".")[1] for key in found} >= keys[part]


def test_what_fails_or_is_refused_is_a_row_and_ends_nothing(tmp_path):
    report = Report(tmp_path / "rows", 600)
    assert report.attempt("sum", lambda: 3) == 3
    report.attempt("broken", lambda: 1 / 0)
    report.attempt("refused", lambda: (_ for _ in ()).throw(ConfigError("dtype", "is 3", "4")))
    Report(tmp_path / "rows", 0).attempt("late", lambda: 1)
    found = rows_of(tmp_path / "rows")
    assert found["broken"]["error"] == "ZeroDivisionError: division by zero"
    assert found["refused"]["left_out"].startswith("refused: dtype is 3")
    assert found["late"]["left_out"] == "the time was over"
    assert report.failed


def test_a_setting_that_this_engine_has_not_is_named(place):
    with pytest.raises(ConfigError, match="warp_speed is not a setting of this engine"):
        Bench(place, "llama-3.2-1b", warp_speed=9)


def test_a_request_that_fails_is_never_counted_as_speed(place):
    bench = Bench(place, "llama-3.2-1b", max_model_len=64)
    with pytest.raises(RuntimeError, match="0 failed: prompt"):
        bench.run(bench.asked(1, 60, 10))


def test_later_requests_and_the_end_of_the_time(place):
    bench = Bench(place, "llama-3.2-1b")
    late = bench.asked(1, 5, 4, "late")
    sent = []

    def more(course: Course) -> list[m.ToEngine]:
        if len(course.times) < 3 or sent:
            return []
        sent.append(course.times[-1])
        return [*late]

    course = bench.run(bench.asked(2, 5, 9), more=more)
    assert sorted(len(tokens) for tokens in course.tokens.values()) == [4, 9, 9]
    assert course.when(late[0].id, 1) > sent[0]

    def slowly(course: Course) -> list[m.ToEngine]:  # 1,500 tokens take 1.5 seconds on any machine
        time.sleep(0.001)
        return []

    cut = bench.run(bench.asked(2, 5, 1500), seconds=0.3, more=slowly)
    assert all(0 < len(tokens) < 1500 for tokens in cut.tokens.values())
    assert len(bench.run(bench.asked(1, 5, 3)).tokens) == 1  # and the next run begins with nothing left


def a_course() -> Course:
    return Course(0.0, [1.0, 2.0, 4.0, 4.5], [{"a": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}, {"b": 1}])


def test_what_a_course_says():
    course = a_course()
    assert course.whole(2) == [2.0]
    assert course.whole(1) == [1.0, 2.0, 0.5]
    assert sorted(course.gaps("ab", 1.5, 9)) == [0.5, 1.0, 2.0, 2.0]
    assert course.gaps("a", 2.0, 4.0) == [2.0]
    assert course.when("a", 4) == 4.0
    with pytest.raises(RuntimeError, match="b has 3 tokens, not 4"):
        course.when("b", 4)
    both = Course(0.0, [1.0, 2.0], [{"a": 1, "b": 1}, {"a": 1, "b": 1}], {"a": [1, 1], "b": [1, 1]})
    assert throughput.rate(both, 2) == 2.0
    assert throughput.rate(both, 1) == 2.0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=12))
def test_the_line_that_intervals_cover(pieces):
    spans = sorted((float(a), float(a + n)) for a, n in pieces)
    assert modes.covered(spans) == len({i for a, n in pieces for i in range(a, a + n)})


def test_no_percentile_of_nothing():
    with pytest.raises(ValueError, match="no value"):
        throughput.percentile([], 99)
    assert throughput.percentile([3.0, 1.0, 2.0], 50) == 2.0
