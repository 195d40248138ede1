"""`python -m quire.clients.bench gpu`: all of it on a CPU, in a tiny size; each part by itself; what it reports."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from interpreted import needs_triton

from quire.clients.bench import gpu, gpu_report
from quire.clients.bench.__main__ import main
from quire.clients.bench.gpu_predicted import PREDICTED, predicted
from quire.clients.bench.gpu_report import Part, Report, figure, line, ratios, read_rows

HERE = ["--device", "cpu", "--tiny", "--port", "8627"]


def rows_of(out: Path) -> dict[str, dict]:
    content = json.loads((out / "gpu.json").read_text())
    return {row["key"]: row for part in content["parts"] for row in part["rows"]}


def test_the_command_from_end_to_end(tmp_path, capsys):
    code = main(["gpu", "--out", str(tmp_path), *HERE, "--minutes", "9", "--parts", "throughput", "server", "gap"])
    found = rows_of(tmp_path)
    assert code == 0, (tmp_path / "gpu.md").read_text()
    assert found["throughput.output"]["value"] > 0
    assert found["server.output"]["value"] > 0
    assert found["server.gap_p99"]["value"] >= found["server.gap_p50"]["value"]
    assert found["gap.ratio"]["predicted"] == PREDICTED["gap.ratio"][0]
    text = (tmp_path / "gpu.md").read_text()
    assert text.index("## throughput") < text.index("## gap") < text.index("## server")
    assert "- torch: " in text
    assert str(tmp_path / "gpu.md") in capsys.readouterr().out


@pytest.mark.slow
@needs_triton
def test_all_parts_but_the_tests(tmp_path):
    code = main(["gpu", "--out", str(tmp_path), *HERE, "--minutes", "9", "--parts", *gpu.MEASURED])
    assert code == 0, (tmp_path / "gpu.md").read_text()
    found = rows_of(tmp_path)
    for part in gpu.MEASURED:
        assert any(key.startswith(f"{part}.") and "value" in row for key, row in found.items()), part
    assert found["transformers.ratio"]["value"] > 0


def test_a_device_that_is_not_there_is_said_and_nothing_is_measured(tmp_path):
    """Of two parts, each says so for itself."""
    flags = ["--device", "cuda:99", "--tiny", "--minutes", "9", "--parts", "machine", "decode"]
    assert main(["gpu", "--out", str(tmp_path), *flags]) == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [part["name"] for part in parts] == ["machine", "decode"]
    assert all("device is 'cuda:99'" in part["ended"] for part in parts)
    assert not rows_of(tmp_path)


def test_where_time_is_short_parts_are_not_begun(tmp_path):
    assert main(["gpu", "--out", str(tmp_path), *HERE, "--minutes", "0.01", "--parts", "machine"]) == 1
    assert "not begun" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_raises_does_not_end_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "served", lambda *_: 1 / 0)
    monkeypatch.setattr(gpu, "measured", lambda *_: ([{"key": "gap.quiet", "value": 1.0, "unit": "ms"}], ""))
    assert main(["gpu", "--out", str(tmp_path), *HERE, "--parts", "server", "gap"]) == 1
    text = (tmp_path / "gpu.md").read_text()
    assert "**failed: ZeroDivisionError: division by zero**" in text
    assert "| gap.quiet | 1 ms | 9 |" in text


def test_what_takes_too_long_is_ended_with_its_children(tmp_path):
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '97531']); print(p.pid, flush=True); p.wait()"
    began = time.monotonic()
    assert gpu.run([sys.executable, "-c", script], tmp_path / "log", 1.0, dict(os.environ)) is None
    assert time.monotonic() - began < 30
    child = int(gpu.last_line(tmp_path / "log"))
    for _ in range(100):
        try:
            if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
                break
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("its child is alive")


def test_what_was_found_before_a_part_was_ended_stays(tmp_path, monkeypatch):
    """As one whose last line was cut off."""
    (tmp_path / "rows").write_text('{"key": "a.b", "value": 2.0, "unit": "s"}\n{"key": "a.c", "val')
    assert read_rows(tmp_path / "rows") == [{"key": "a.b", "value": 2.0, "unit": "s"}]
    assert read_rows(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("checks", "wanted"),
    [
        ("def test_it(): pass", {"value": 1, "unit": "passed"}),
        ("def test_it(): assert 1 == 2", {"error": "1 failed"}),
        ("import nothing_of_that_name", {"error": "1 error"}),
    ],
)
def test_the_tests_are_run_and_counted(checks, wanted, tmp_path, monkeypatch):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    (tmp_path / "tests" / "gpu" / "test_one.py").write_text(checks)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    part = gpu.tests(tmp_path, 60)
    quick = part.rows[0]
    assert quick["key"] == "tests.quick"
    assert all(str(value) in str(quick[key]) for key, value in wanted.items()), part


def test_what_graphs_do_on_a_gpu_is_among_the_tests(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(gpu, "run", lambda command, log, *_, **__: (asked.extend(command), log.touch(), 5)[-1])
    gpu.tests(tmp_path, 60)
    tests = Path(gpu.ROOT) / "tests"
    assert {str(tests / "gpu"), str(tests / "engine" / "graphs_cases.py")} < set(asked)
    assert str(tests / "kernels" / "test_attention_triton.py") in asked


@pytest.mark.parametrize("there", [True, False])
def test_tests_run_side_by_side_where_they_can_and_each_says_how_it_ended(there, tmp_path, monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(gpu.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(gpu, "run", lambda command, log, *_, **__: (asked.append(command), log.touch(), 5)[-1])
    gpu.tests(tmp_path, 60)
    assert len(asked) == 2
    for command in asked:
        assert "-v" in command
        assert (command[command.index("-n") + 1] if "-n" in command else None) == ("14" if there else None)


def test_where_there_is_no_checkout_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.tests(tmp_path, 60).ended.startswith("not run: there is no checkout at")


def test_every_prediction_is_of_a_part_and_the_longest_that_fits_counts():
    assert {key.partition(".")[0] for key in PREDICTED} <= set(gpu.MEASURED)
    assert predicted("attention.decode.triton.fp8.8") == PREDICTED["attention.decode.triton.fp8"]
    assert predicted("attention.decode.triton.auto.8") == PREDICTED["attention.decode.triton.auto.8"]
    assert predicted("kernels.norm.16") == PREDICTED["kernels.norm"]
    assert predicted("unheard.of") is None
    assert all(text and why for text, why in PREDICTED.values())


def test_a_ratio_is_of_answers_of_the_same_length(tmp_path):
    report = Report(tmp_path)
    report.add(
        Part("throughput", rows=[{"key": f"throughput.first.{n}", "value": 10.0 * n, "unit": "x"} for n in (1, 2)])
    )
    theirs = Part("transformers")
    assert ratios(report, theirs) == []
    theirs.rows = [{"key": "transformers.first.2", "value": 4.0, "unit": "x"}]
    assert ratios(report, theirs)[0]["value"] == 5.0
    theirs.rows = [{"key": "transformers.first.3", "value": 4.0, "unit": "x"}]
    assert ratios(report, theirs) == [{"key": "transformers.ratio", "left_out": "quire has no rate for answers of 3"}]


def test_rows_of_the_table():
    assert line({"key": "a", "value": 1234.5, "unit": "GB/s", "note": "x | y"}) == "| a | 1,234 GB/s |  |  | x / y |"
    assert line({"key": "a", "error": "E: no"}) == "| a | failed: E: no |  |  |  |"
    assert line({"key": "a", "left_out": "time"}) == "| a | not measured: time |  |  |  |"
    assert [figure(x) for x in (0.12345, 12.345, 999.4, 100000.2)] == ["0.123", "12.3", "999", "100,000"]


def test_what_the_card_is_is_asked_of_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 570.1, 81559 MiB, 700.00 W, 1980 MHz'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = gpu_report.about()["device"]
    assert said.startswith("name NVIDIA H100 80GB HBM3, driver_version 570.1")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert "did not say" in gpu_report.about()["device"]


def test_an_unknown_part_is_an_error_of_usage(tmp_path):
    with pytest.raises(SystemExit):
        main(["gpu", "--out", str(tmp_path), "--parts", "everything"])
