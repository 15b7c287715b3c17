"""What `processes='auto'` means here: how many CPUs this process may really use, and why."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from workerbee.batch import granted_cpus, text_of


@dataclass(frozen=True)
class Cpus:
    """How many bees fit here (at least 1), and the reason as a clause to put after "4 bees: "."""

    count: int
    reason: str


def usable_cpus(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Cpus:
    """Find the least of what machine, batch system, cgroup quotas and affinity mask allow this process.

    A quota of part of a CPU is rounded up. `root` is where `/proc` and the cgroup mounts are looked for.
    What cannot be read limits nothing; raises nothing.
    """
    # os.cpu_count() would return PYTHON_CPU_COUNT, which HTCondor sets to the size of the slot
    machine = psutil.cpu_count() or 1
    # Of equal limits the first gives the reason: the machine's own is none, a batch system's explains most.
    limits: list[tuple[float, str]] = [(machine, f"the machine has {_cpus(machine)}")]
    if granted := granted_cpus(environ):
        limits.append((granted[1], f"the {granted[0]} has {_cpus(granted[1])}, the machine {machine}"))
    for quota in _quotas(root):
        limits.append((quota, f"the cgroup allows {_cpus(quota)}, the machine {machine}"))
    if hasattr(os, "sched_getaffinity"):
        affinity = len(os.sched_getaffinity(0))
        limits.append((affinity, f"the affinity mask has {_cpus(affinity)}, the machine {machine}"))
    least, reason = min(limits, key=lambda limit: limit[0])
    return Cpus(max(1, math.ceil(least)), reason)


def _cpus(number: float) -> str:
    return "1 CPU" if number == 1 else f"{number:.4g} CPUs"


def _quotas(root: Path) -> Iterator[float]:
    """Yield every CPU quota, in CPUs, over this process: its own cgroup's and those above, v1 and v2."""
    mounts = [_Mount.parse(line) for line in text_of(root / "proc/self/mountinfo").splitlines()]
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a hybrid hierarchy both kinds are there, and only one of them has the files with quotas.
        if number == "0" and not controllers:
            found = [mount for mount in mounts if mount and mount.kind == "cgroup2"]
            read = _v2_quota
        elif "cpu" in controllers.split(","):
            found = [mount for mount in mounts if mount and mount.kind == "cgroup" and "cpu" in mount.options]
            read = _v1_quota
        else:
            continue
        for directory in _own_and_above(found, PurePosixPath(path)):
            quota = read(root / str(directory).lstrip("/"))
            if quota is not None:
                yield quota


@dataclass(frozen=True)
class _Mount:
    """A line of mountinfo: `root` is the directory of the file system that is seen at `point`."""

    root: PurePosixPath
    point: PurePosixPath
    kind: str
    options: list[str]

    @classmethod
    def parse(cls, line: str) -> _Mount | None:
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) < 6 or len(right) < 3:
            return None
        return cls(_unescaped(left[3]), _unescaped(left[4]), right[0], right[2].split(","))


def _unescaped(path: str) -> PurePosixPath:
    # The kernel writes blanks and backslashes in mountinfo as octal
    return PurePosixPath(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path))


def _own_and_above(mounts: list[_Mount], own: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield the directory of the cgroup `own` and those above it, as far as `mounts` show them.

    A container may be shown names that do not fit together: '/' or '/../..' as its own cgroup, a mount whose
    root is another. What is then mounted is the best to be had: the container's own cgroup, usually.
    """
    inside = [mount for mount in mounts if _below(mount.root, own) is not None]
    for mount in inside or mounts:
        directory = mount.point / (_below(mount.root, own) or "")
        yield directory
        while directory != mount.point:
            directory = directory.parent
            yield directory


def _below(root: PurePosixPath, own: PurePosixPath) -> PurePosixPath | None:
    """Return the way from `root` down to `own`, None if there is none."""
    # Never upwards: what is above a mount point is not above the cgroup that is mounted there.
    if own.is_relative_to(root) and ".." not in (way := own.relative_to(root)).parts:
        return way
    return None


def _v2_quota(cgroup: Path) -> float | None:
    quota, _, period = text_of(cgroup / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _v1_quota(cgroup: Path) -> float | None:
    return _ratio(text_of(cgroup / "cpu.cfs_quota_us"), text_of(cgroup / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """Divide two counts of microseconds; None for no limit ('max', -1) and for what is no number."""
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ArithmeticError):
        return None
    return cpus if cpus > 0 else None
