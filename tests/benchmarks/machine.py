"""What the figures were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg2

from workerbee.cpus import usable_cpus

ROOT = Path(__file__).parents[2]


def describe(server_version: str, folder: Path) -> list[tuple[str, str]]:
    """The date, the versions, the machine, and the disk that `folder` is on: names and what is to be said of each."""
    memory = psutil.virtual_memory().total / 2**30
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return [
        ("date", datetime.datetime.now().astimezone().isoformat(timespec="seconds")),
        ("workerbee", f"{_version('workerbee')} {_commit()}".strip()),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("PostgreSQL", server_version),
        ("psycopg2", psycopg2.__version__.split()[0]),
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} cores, of which usable: {usable_cpus().count}"),
        ("memory", f"{memory:.1f} GiB"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("disk", f"{_filesystem(folder)}, fsync of 8 kB takes {1000 * _fsync_seconds(folder):.2f} ms"),
        ("load at the start", f"{loads} (over 1, 5, 15 minutes)"),
    ]


def _version(distribution: str) -> str:
    """Of what is installed; '' when it is only on the path."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the working copy; '' when this is none."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _filesystem(folder: Path) -> str:
    mounts = [
        partition for partition in psutil.disk_partitions(all=True) if folder.is_relative_to(partition.mountpoint)
    ]
    return max(mounts, key=lambda partition: len(partition.mountpoint)).fstype if mounts else "unknown"


def _fsync_seconds(folder: Path) -> float:
    """The median of 21: what a commit has to wait for."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(21):
            file.write(os.urandom(8192))
            file.flush()
            begun = time.monotonic()
            os.fdatasync(file.fileno())
            taken.append(time.monotonic() - begun)
    return statistics.median(taken)
