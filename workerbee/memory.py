"""How much memory processes use, how much there is, and whether the kernel has killed for want of it. Bytes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from workerbee import cgroups
from workerbee.batch import text_of
from workerbee.orphans import children

AUTO = 0.9  # of what there is


@dataclass(frozen=True)
class Gauge:
    """Memory that a node shares, `name` as people know it: `used()` of it should not go beyond `allowed`."""

    name: str
    allowed: int
    used: Callable[[], int]


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(children(found[-1]))
    return found


def used_by(pids: Iterable[int], unless_above: int = 0) -> int:
    """What the processes use together, what they share with others counted in parts.

    That is exact, and takes the kernel a walk through their pages. Below `unless_above` an upper bound does, which
    is cheap: it counts what is shared in each.
    """
    pids = list(pids)
    bound = sum(_use(pid, _resident) for pid in pids)
    return bound if bound <= unless_above else sum(_use(pid, _share) for pid in pids)


def gauges(node_memory: int | None, root: Path = Path("/")) -> list[Gauge]:
    """What a node of this process must not go beyond: `node_memory`, or else 90 % of what there is for all who use it.

    `root` is where `/proc` and the cgroup mounts are looked for.
    """
    if node_memory is not None:
        own = os.getpid()
        return [Gauge("node_memory", node_memory, lambda: used_by(tree(own), node_memory))]
    total = psutil.virtual_memory().total
    found = [Gauge("the cgroup's memory", int(AUTO * limit), used) for limit, used in _limits(root) if limit < total]
    return [*found, Gauge("the machine's memory", int(AUTO * total), _used_of_machine)]


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed for want of memory: in this process's cgroup, or where that does not
    tell, on the machine."""
    counts = [_number_after("oom_kill", text_of(root / "proc/vmstat"))]
    for version, directory in cgroups.directories("memory", root):
        counts.insert(0, _number_after("oom_kill", text_of(directory / _OOM_FILES[version])))
        break
    return next((count for count in counts if count is not None), 0)


_OOM_FILES = {1: "memory.oom_control", 2: "memory.events"}


def _limits(root: Path) -> Iterator[tuple[int, Callable[[], int]]]:
    for version, directory in cgroups.directories("memory", root):
        limit = text_of(directory / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if limit.isdigit():  # not 'max'
            yield int(limit), functools.partial(_used_of_cgroup, version, directory)


def _used_of_cgroup(version: int, directory: Path) -> int:
    # Without the page cache, which the kernel takes back before it kills.
    current = text_of(directory / ("memory.current" if version == 2 else "memory.usage_in_bytes")).strip()
    stat = text_of(directory / "memory.stat")
    prefix = "" if version == 2 else "total_"
    cache = sum(_number_after(f"{prefix}{which}_file", stat) or 0 for which in ("active", "inactive"))
    return int(current or 0) - cache


def _used_of_machine() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def _number_after(name: str, text: str) -> int | None:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _use(pid: int, measure: Callable[[psutil.Process], int]) -> int:
    try:
        return measure(psutil.Process(pid))
    except psutil.Error:  # it has ended
        return 0


def _resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def _share(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return _resident(process)
    return int(full.pss + full.swap if hasattr(full, "pss") else full.uss)
