"""What `processes='auto'` means here: how many CPUs this process may really use, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from workerbee import cgroups
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
    for version, directory in cgroups.directories("cpu", root):
        quota = _v2_quota(directory) if version == 2 else _v1_quota(directory)
        if quota is not None:
            yield quota


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
