"""Which batch system runs this process, and how many CPUs of this machine it granted."""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

SETTLING = 5.0  # seconds: the hosts' clocks differ, and the end is sharp

# Only variables that a job gets, never those of an installation (SGE_ROOT, LSF_ENVDIR, _CONDOR_<SETTING>),
# which login nodes have too. In the order of nesting: an HTCondor pilot may run inside a Slurm job, and
# either inside a pod.
_SET_FOR_JOBS = {
    "HTCondor": ("_CONDOR_MACHINE_AD", "_CONDOR_JOB_AD", "_CONDOR_SLOT", "_CONDOR_SCRATCH_DIR"),
    "Slurm": ("SLURM_JOB_ID", "SLURM_JOBID"),
    "PBS": ("PBS_JOBID",),
    "SGE": ("SGE_TASK_ID", "SGE_JOB_SPOOL_DIR"),
    "LSF": ("LSB_JOBID",),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST",),
}


def batch_system(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name the batch system that runs this process, None outside of all.

    One of 'HTCondor', 'Slurm', 'PBS', 'SGE', 'LSF', 'Kubernetes'; of several, the innermost.
    """
    for system, variables in _SET_FOR_JOBS.items():
        if any(environ.get(variable) for variable in variables):
            return system
    return None


def seconds_left(environ: Mapping[str, str] = os.environ) -> float | None:
    """The seconds until the batch system ends this process, at least 0; None where it does not say.

    Slurm says it (since 20.11, `SLURM_JOB_END_TIME`, in seconds of the epoch). `SETTLING` of them are left out.
    """
    if batch_system(environ) != "Slurm":
        return None
    try:
        end = float(environ["SLURM_JOB_END_TIME"])
    except (KeyError, ValueError):
        return None
    return max(0.0, end - time.time() - SETTLING) if math.isfinite(end) and end > 0 else None


def granted_cpus(environ: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Say what was granted to this process ('HTCondor slot', 'Slurm task') and its CPUs on this machine.

    None outside of batch systems, in Kubernetes (whose limit is a cgroup's), and where nothing usable is
    said: what is missing or malformed is ignored. Raises nothing.
    """
    match batch_system(environ):
        case "HTCondor":
            what, cpus = "HTCondor slot", _htcondor(environ)
        case "Slurm" if cpus := _count(environ.get("SLURM_CPUS_PER_TASK")):
            what = "Slurm task"
        case "Slurm":
            what, cpus = "Slurm job", _slurm_node(environ)
        case "PBS":
            what, cpus = "PBS job", _pbs(environ)
        case "SGE":
            what, cpus = "SGE job", _sge(environ)
        case "LSF":
            what, cpus = "LSF job", _lsf(environ)
        case _:
            return None
    return (what, cpus) if cpus else None


def text_of(path: Path) -> str:
    """Read a file whole; '' if it cannot be read, for callers to whom that is the same as an empty one."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):  # ValueError: a path with NUL in it
        return ""


def _htcondor(environ: Mapping[str, str]) -> int | None:
    ad = text_of(Path(environ.get("_CONDOR_MACHINE_AD", "")))
    # ClassAd attribute names have no case
    found = re.search(r"^[ \t]*Cpus[ \t]*=(.*)$", ad, re.MULTILINE | re.IGNORECASE)
    return _count(found[1]) if found else None


def _slurm_node(environ: Mapping[str, str]) -> int | None:
    if here := _count(environ.get("SLURM_CPUS_ON_NODE")):
        return here
    # Like '24(x2),8': one count per run of nodes. Which node is ours cannot be told (SLURM_NODEID counts
    # within the step, this list within the job), so the smallest it is.
    runs = environ.get("SLURM_JOB_CPUS_PER_NODE", "").split(",")
    per_node = [_count(re.sub(r"\(x[0-9]+\)\s*$", "", run)) for run in runs]
    return min((cpus for cpus in per_node if cpus), default=None)


def _pbs(environ: Mapping[str, str]) -> int | None:
    per_node = _count(environ.get("PBS_NUM_PPN"))
    if per_node is None:
        # PBS Professional and OpenPBS: the CPUs of this task's chunk, which never spans hosts
        return _count(environ.get("NCPUS"))
    # TORQUE: its PBS_NUM_PPN is that of the first part of the request only, and 1 for `-l procs=`; the node
    # file has a line per CPU. (PBS Professional's has a line per MPI rank, which says nothing of CPUs.)
    hosts = text_of(Path(environ.get("PBS_NODEFILE", ""))).split()
    return _this_host((host, 1) for host in hosts) or per_node


def _sge(environ: Mapping[str, str]) -> int | None:
    # One line per host and queue: host, slots, queue, processors. NSLOTS is the sum over all hosts.
    lines = [line.split() for line in text_of(Path(environ.get("PE_HOSTFILE", ""))).splitlines()]
    if here := _this_host((line[0], _count(line[1])) for line in lines if len(line) >= 2):
        return here
    # Tasks on the other hosts of a parallel job have no host file: theirs is taken for an even share.
    slots, hosts = _count(environ.get("NSLOTS")), _count(environ.get("NHOSTS"))
    return max(1, slots // (hosts or 1)) if slots else None


def _lsf(environ: Mapping[str, str]) -> int | None:
    # 'hostA 4 hostB 2'; LSB_DJOB_NUMPROC is the sum over all hosts.
    if "LSB_MCPU_HOSTS" not in environ:
        return _count(environ.get("LSB_DJOB_NUMPROC"))
    words = environ["LSB_MCPU_HOSTS"].split()
    return _this_host(zip(words[::2], map(_count, words[1::2]), strict=False))


def _this_host(grants: Iterable[tuple[str, int | None]]) -> int | None:
    """Sum up what this host has; if it goes by another name there, what the least of them has."""
    total: Counter[str] = Counter()
    for host, cpus in grants:
        if cpus:
            total[host.lower()] += cpus
    # With and without domain: batch systems and hosts do not agree on how long a name is.
    own = socket.gethostname().lower().partition(".")[0]
    here = [cpus for host, cpus in total.items() if host.partition(".")[0] == own]
    return min(here or total.values(), default=None)


def _count(text: str | None) -> int | None:
    """Read a number of CPUs, at least 1; None for anything else."""
    found = re.fullmatch(r"\s*([1-9][0-9]{0,8})\s*", text or "")
    return int(found[1]) if found else None
