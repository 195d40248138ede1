"""What this process has of the machine: devices that CUDA has or lacks, cores, memory; of trees like /proc and /sys."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.errors import ConfigError
from quire.engine.machine import free_memory, physical_cores, pick_device

CPU = torch.device("cpu")
MIB = 1 << 20


# ---------------------------------------------------------------- the device


class Card:
    """Torch with CUDA, as it is with so many cards of a kind; `init` is what it says where CUDA cannot be used."""

    def __init__(self, patch: pytest.MonkeyPatch, *, count: int = 1, built="sm_80 sm_90", has=(8, 0), init: str = ""):
        def fail() -> None:
            raise RuntimeError(init)

        def available() -> bool:
            if init:
                warnings.warn(f"CUDA initialization: {init}", stacklevel=1)
            return bool(count) and not init

        patch.setattr(torch.version, "cuda", "12.8")
        patch.setattr(torch, "__version__", "2.11.0+cu128")
        patch.setattr(torch.cuda, "is_available", available)
        patch.setattr(torch.cuda, "init", fail if init else lambda: None)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "get_arch_list", built.split)
        patch.setattr(torch.cuda, "get_device_capability", lambda device: has)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Something")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "cpu:0", "", "cuda:-1", "auto:0"])
def test_what_is_no_name_of_a_device_is_refused(name):
    with pytest.raises(ConfigError, match=r"device is .*; expected auto, cpu, cuda or cuda:N"):
        pick_device(name)


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NONE = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
STRANGE = "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?\nError 802: not ready"
SAID = [
    (TOO_OLD, "the NVIDIA driver is for CUDA 11.4, and torch 2.11.0+cu128 needs one for CUDA 12.8"),
    (NONE, "there is no NVIDIA driver, and torch 2.11.0+cu128 needs one for CUDA 12.8"),
    ("No CUDA GPUs are available", "torch 2.11.0+cu128 cannot use CUDA 12.8: No CUDA GPUs are available"),
    (STRANGE, "torch 2.11.0+cu128 cannot use CUDA 12.8: Unexpected error from cudaGetDeviceCount()"),
]


@pytest.mark.parametrize(("text", "said"), SAID)
def test_why_cuda_cannot_be_used_is_one_line(monkeypatch, caplog, text, said):
    """An error where CUDA is asked for; where any device will do, the CPU and a warning. Torch's own is not shown."""
    Card(monkeypatch, init=text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError) as caught:
            pick_device("cuda")
        assert caught.value.message.startswith(f"device is 'cuda', and {said}")
        assert "\n" not in caught.value.message
        assert pick_device("auto") == CPU
    assert said in caplog.text


def test_a_torch_without_cuda_says_so_where_it_is_asked_for(monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ConfigError, match=r"device is 'cuda:1', and torch .* is built without CUDA; expected cpu"):
        pick_device("cuda:1")
    assert pick_device("auto") == pick_device("cpu") == CPU
    assert not caplog.text, "on a machine without a GPU nothing is missing"


def test_a_card_that_is_there_is_taken_and_one_that_is_not_is_refused(monkeypatch):
    Card(monkeypatch, count=2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="device is 'cuda:2'; expected one of the 2 CUDA devices"):
        pick_device("cuda:2")


@pytest.mark.parametrize(("built", "has", "runs"), [
    ("sm_80 sm_90", (8, 0), True),
    ("sm_80 sm_90", (8, 9), True),
    ("sm_86", (8, 0), False),
    ("sm_75 sm_80", (6, 1), False),
    ("sm_80 sm_90", (10, 0), False),
    ("sm_80 sm_90 compute_90", (10, 0), True),
    ("sm_90a", (9, 0), True),
    ("sm_100a", (10, 3), False),
    ("sm_100f", (10, 3), True),
    ("sm_100f", (12, 0), False),
    ("compute_100f", (12, 0), False),
    ("sm_120", (12, 1), True),
    ("", (9, 0), True),
    ("gfx942", (9, 4), True),
])  # fmt: skip
def test_a_card_that_torch_has_no_code_for_is_refused(monkeypatch, built, has, runs):
    Card(monkeypatch, built=built, has=has)
    if runs:
        assert pick_device("cuda") == torch.device("cuda:0")
        return
    with pytest.raises(ConfigError) as caught:
        pick_device("cuda:0")
    said = f"a NVIDIA Something of compute capability {has[0]}.{has[1]}, and torch 2.11.0+cu128 is built for {built};"
    assert said in caught.value.message


# ---------------------------------------------------------------- cores


CORES = "\n\n".join(f"processor\t: {n}\nphysical id\t: 0\ncore id\t\t: {n // 2}" for n in range(16))


def cores(monkeypatch, root: Path, cgroup: str, files: dict[str, str], allowed=range(16)) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed), raising=False)
    return physical_cores(machine(root, MIB, cgroup, {"proc/cpuinfo": CORES, **files}))


def test_cores_are_counted_without_hyper_threads_where_no_quota_is(monkeypatch, tmp_path):
    assert cores(monkeypatch, tmp_path, "", {}) == 8
    assert cores(monkeypatch, tmp_path, "", {}, allowed=[0, 1, 2, 9]) == 3
    assert cores(monkeypatch, tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}) == 8


@pytest.mark.parametrize(("quota", "wanted"), [(400000, 4), (150000, 1), (20000, 1), (799999, 7), (10**9, 8)])
def test_a_quota_of_version_2_counts(monkeypatch, tmp_path, quota, wanted):
    """Of a group or of one above it, rounded down, at least one."""
    files = {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": f"{quota} 100000\n"}
    assert cores(monkeypatch, tmp_path, "0::/a/b\n", files) == wanted


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_counts(monkeypatch, tmp_path, folder):
    base = f"sys/fs/cgroup/{folder}"
    files = {f"{base}/cpu.cfs_quota_us": "250000\n", f"{base}/cpu.cfs_period_us": "50000\n"}
    cgroup = "5:cpu,cpuacct:/docker/abc\n3:cpuset:/x\n"  # a container: its path is the host's
    assert cores(monkeypatch, tmp_path, cgroup, files) == 5
    files[f"{base}/cpu.cfs_quota_us"] = "-1\n"
    assert cores(monkeypatch, tmp_path, cgroup, files) == 8


@given(quota=st.text(max_size=8), period=st.text(max_size=8))
def test_a_quota_that_cannot_be_read_is_none(tmp_path_factory, quota, period):
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        found = cores(patch, root, "0::/\n", {"sys/fs/cgroup/cpu.max": f"{quota} {period}"})
    assert 1 <= found <= 8


def test_without_linux_there_are_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert physical_cores(tmp_path) >= 1


# ---------------------------------------------------------------- memory


def machine(root: Path, available: int, cgroup: str = "", files: dict[str, str] | None = None) -> Path:
    """A file tree like /proc and /sys of a machine with that much memory available, in bytes."""
    texts = {
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n",
        "proc/self/cgroup": cgroup,
        **(files or {}),
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_free_memory_is_what_the_machine_says(tmp_path):
    assert free_memory(CPU, machine(tmp_path, 64 * MIB)) == 64 * MIB


def test_free_memory_is_at_most_the_room_in_a_cgroup_of_version_2(tmp_path):
    files = {
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "1\n",
        "sys/fs/cgroup/a/memory.max": f"{40 * MIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{30 * MIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {2 * MIB}\n",
    }
    assert free_memory(CPU, machine(tmp_path, 64 * MIB, "0::/a/b\n", files)) == 12 * MIB


def test_free_memory_is_at_most_the_room_in_a_cgroup_of_version_1(tmp_path):
    base = "sys/fs/cgroup/memory"
    files = {
        f"{base}/memory.limit_in_bytes": f"{20 * MIB}\n",  # a container: its path is the host's
        f"{base}/memory.usage_in_bytes": f"{15 * MIB}\n",
    }
    cgroup = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n"
    assert free_memory(CPU, machine(tmp_path, 64 * MIB, cgroup, files)) == 5 * MIB


def test_a_limit_of_version_1_that_means_no_limit_is_none(tmp_path):
    base = "sys/fs/cgroup/memory"
    files = {f"{base}/memory.limit_in_bytes": "9223372036854771712\n", f"{base}/memory.usage_in_bytes": "1\n"}
    assert free_memory(CPU, machine(tmp_path, 64 * MIB, "4:memory:/\n", files)) == 64 * MIB


def test_without_linux_there_is_still_an_answer(tmp_path):
    assert free_memory(CPU, tmp_path) > 0
