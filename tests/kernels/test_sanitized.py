"""The C++ kernels under the sanitizers: no read behind an end, no undefined behaviour, no race between threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "kernels" / "cpu"
FLAGS = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fno-sanitize-recover=all", "-pthread", f"-I{SOURCES}"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ at hand")
@pytest.mark.parametrize("which", ["address,undefined", "thread"])
def test_the_kernels_are_sound(which, tmp_path):
    program = tmp_path / "sanitized"
    names = ("attention", "lora", "matrix", "pool", "quantize", "rows", "vocabulary")
    parts = [SOURCES / f"{name}.cpp" for name in names]
    main = Path(__file__).with_name("sanitized.cpp")
    subprocess.run(["g++", *FLAGS, f"-fsanitize={which}", *parts, main, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "sound\n"
