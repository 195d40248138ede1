"""What this process has of the machine: a device, cores, memory. `root` is where /proc and /sys are looked for."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from .errors import ConfigError

log = logging.getLogger("quire.engine")

ROOT = Path("/")


# ---------------------------------------------------------------- the device


def pick_device(name: str) -> torch.device:
    """auto | cpu | cuda | cuda:N. Raises ConfigError where there is no such device, or torch cannot compute on it."""
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or not (index == "" or index.isdigit()) or name == "cuda:"):
        raise ConfigError("device", f"is {name!r}", "auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    lack = _cuda_lacks()
    if name == "auto" and lack is not None:
        if torch.version.cuda is not None:
            log.warning("device is auto, and %s: the engine runs on the CPU", lack)
        return torch.device("cpu")
    if lack is not None:
        raise ConfigError("device", f"is {name!r}, and {lack}", "cpu, or what CUDA needs")
    device = torch.device("cuda", int(index or 0))  # its tensors say their number, so the device does
    there = torch.cuda.device_count()
    if int(index or 0) >= there:
        raise ConfigError("device", f"is {name!r}", f"one of the {there} CUDA devices that torch finds here")
    if (lack := _built_without(device)) is not None:
        raise ConfigError("device", f"is {name!r}, {lack}", "cpu, or a torch that is built for it")
    return device


def _cuda_lacks() -> str | None:
    """Why torch finds no CUDA device at all, in words; None: it finds one."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same is raised below
        if torch.cuda.is_available():
            return None
        try:
            torch.cuda.init()
        except Exception as error:  # RuntimeError mostly; what a driver does is not ours to foresee
            return _driver_lacks(str(error))
    return f"torch {torch.__version__} finds no CUDA device"


def _driver_lacks(text: str) -> str:
    """What torch says when CUDA cannot be used, in one sentence with the numbers."""
    needs = f"torch {torch.__version__} needs one for CUDA {torch.version.cuda}"
    if (found := re.search(r"driver .* too old \(found version (\d+)\)", text)) is not None:
        number = int(found[1])  # 1000 * major + 10 * minor
        return f"the NVIDIA driver is for CUDA {number // 1000}.{number % 1000 // 10}, and {needs}"
    if "no NVIDIA driver" in text:
        return f"there is no NVIDIA driver, and {needs}"
    return f"torch {torch.__version__} cannot use CUDA {torch.version.cuda}: {first_line(text)}"


def _built_without(device: torch.device) -> str | None:
    """What torch is built for where it has no code for this card; None: it has some.

    Machine code (sm_XY) runs on cards of the same major number and no smaller a minor one, with a letter behind it on
    that very card (and with f within its family); PTX (compute_XY) is compiled for any newer card (CUDA's programming
    guide, compatibility).
    """
    if torch.version.cuda is None:
        return None
    kinds = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability(device)
    if not kinds or any(_runs(kind, major, minor) for kind in kinds):
        return None
    name = torch.cuda.get_device_name(device)
    built = f"torch {torch.__version__} is built for {' '.join(kinds)}"
    return f"a {name} of compute capability {major}.{minor}, and {built}"


def _runs(kind: str, major: int, minor: int) -> bool:
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", kind)
    if found is None:
        return True  # of a form that is not known here: torch will say
    own = int(found[2]), int(found[3])
    if found[4] == "a":
        return own == (major, minor)
    if found[1] == "sm" or found[4] == "f":
        return own[0] == major and own[1] <= minor
    return own <= (major, minor)


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip().rstrip(".")


# ---------------------------------------------------------------- cores


def physical_cores(root: Path = ROOT) -> int:
    """Cores this process may keep busy: those it may run on, hyper-threads counted once, and no more than its cgroups'
    quotas of CPU time give. One more thread would stand still for a part of each period, and the others wait for it."""
    return max(1, min(_physical_cores(root), *map(int, _cpu_quotas(root)), 1 << 20))


def _physical_cores(root: Path) -> int:
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 1) // 2)
    text = _read(root / "proc/cpuinfo")
    cores = set()
    for block in text.split("\n\n"):
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        if fields.get("processor", "").isdigit() and int(fields["processor"]) in allowed:
            processor = fields["processor"]
            cores.add((fields.get("physical id", "0"), fields.get("core id", f"processor {processor}")))
    return len(cores) or len(allowed)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each of this process's cgroups gives, where it is limited."""
    for version, group in _cgroups(root, "cpu"):
        if version == 2:
            quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        else:
            quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max", -1 or absent: none
            yield int(quota) / int(period)


# ---------------------------------------------------------------- memory


def free_memory(device: torch.device, root: Path = ROOT) -> int:
    """Bytes that can be allocated now: on CUDA of the device, on the CPU of the machine or of this process's cgroup."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    rooms = [_meminfo_available(root), *(_memory_room(version, group) for version, group in _cgroups(root, "memory"))]
    known = [n for n in rooms if n is not None]
    if known:
        return max(0, min(known))
    # No Linux: physical memory is all that can be asked for in a portable way; assume half of it is in use.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _meminfo_available(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _memory_room(version: int, group: Path) -> int | None:
    """Limit minus use of a memory cgroup."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_read(group / name).strip() for name in names)
    if not limit.isdecimal() or not used.isdecimal() or int(limit) >= 1 << 60:
        return None  # "max", absent, or version 1's "no limit"
    reclaimable = 0
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            reclaimable = max(reclaimable, int(value))
    return int(limit) - int(used) + reclaimable


# ---------------------------------------------------------------- cgroups


def _cgroups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, folder) of this process's cgroup that has a controller, and of each above it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, bases = 2, [root / "sys/fs/cgroup"]
        elif controller in controllers.split(","):
            # Mounted under the names of all that it has, or under its own.
            version, bases = 1, [root / "sys/fs/cgroup" / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        for base in bases:
            # In a container the path may name a folder that only the host sees; its own group is then the mount itself.
            folder = base / path.lstrip("/")
            for group in {base, *(f for f in (folder, *folder.parents) if f.is_relative_to(base))}:
                yield version, group


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
