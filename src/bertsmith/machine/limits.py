"""What this machine gives to this process: processor cores and memory. Containers are looked into."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Cores that this process may use: its affinity, or less where a container has a quota of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders("cpu", proc, cgroups):
        quota, period = (*_read(folder / "cpu.max").split(), "", "")[:2]
        if not quota:  # version 1
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # else "max" or -1: no limit
            cores = min(cores, max(1, ceil(int(quota) / int(period))))
    return cores


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that may still be taken: the machine's free memory, or less where a container or `ulimit -v` says so."""
    available = _read(proc / "meminfo").partition("MemAvailable:")[2].split()
    free = int(available[0]) * 1024 if available else _installed_memory() // 2
    for folder in _cgroup_folders("memory", proc, cgroups):
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        inactive = "inactive_file"
        if not limit:  # version 1
            limit, used = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
            inactive = "total_inactive_file"
        if limit.isdecimal() and used.isdecimal():
            numbers = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            cached = int(numbers.get(inactive, 0))  # of files: given back when the memory is needed
            free = min(free, int(limit) - int(used) + cached)
    return max(0, min(free, _address_space_left(proc)))


def _address_space_left(proc: Path) -> int:
    """Bytes that `ulimit -v` leaves, by which some batch systems limit memory; more than any without one."""
    used = _read(proc / "self" / "status").partition("VmSize:")[2].split()
    if resource is None or not used:
        return 1 << 62
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit - int(used[0]) * 1024


def _installed_memory() -> int:
    """Bytes of this machine, where it does not say how many are free; more than any where it says nothing."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 1 << 62
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_folders(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """The control groups that limit this process, from its own up to the root, of version 2 and version 1.

    A limit of any of them holds. A container often sees its own group as the root.
    """
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        if controllers and not root.is_dir():
            root = cgroups / controller
        own = root / path.strip("/")
        yield own
        if own != root:
            yield from (parent for parent in own.parents if parent == root or root in parent.parents)


def _read(path: Path) -> str:
    """What a file of the kernel says; nothing where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
