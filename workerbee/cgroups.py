"""Where the kernel's control groups say what this process may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workerbee.batch import text_of


def directories(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield the directories that may hold files of `controller` ('cpu', 'memory') for this process: those of its own
    cgroup and of each above it, as pairs of the cgroup version, 1 or 2, and the path.

    `root` is where `/proc` and the cgroup mounts are looked for. What cannot be read is left out; raises nothing.
    """
    mounts = [_Mount.parse(line) for line in text_of(root / "proc/self/mountinfo").splitlines()]
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a hybrid hierarchy both kinds are there, and only one of them has the controller's files.
        if number == "0" and not controllers:
            version, found = 2, [mount for mount in mounts if mount and mount.kind == "cgroup2"]
        elif controller in controllers.split(","):
            version = 1
            found = [mount for mount in mounts if mount and mount.kind == "cgroup" and controller in mount.options]
        else:
            continue
        for directory in _own_and_above(found, PurePosixPath(path)):
            yield version, root / str(directory).lstrip("/")


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
