"""How many CPUs 'auto' means: batch systems, cgroup quotas, the affinity mask, and the reason given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from workerbee.batch import batch_system, granted_cpus
from workerbee.cpus import Cpus, usable_cpus

OWN = socket.gethostname().partition(".")[0]
NOT_CPUS = ["", " ", "0", "-1", "four", "4.5", "4 8", "0x4", "\u0664", "9" * 5000, "4\0"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have a machine of 64 CPUs that all may be used."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return 64


@pytest.mark.parametrize(
    ("environ", "system"),
    [
        ({}, None),
        ({"_CONDOR_MACHINE_AD": "/scratch/.machine.ad"}, "HTCondor"),
        ({"_CONDOR_SLOT": "slot1_3"}, "HTCondor"),
        ({"SLURM_JOB_ID": "17"}, "Slurm"),
        ({"SLURM_JOBID": "17"}, "Slurm"),
        ({"PBS_JOBID": "17.server", "PBS_ENVIRONMENT": "PBS_BATCH"}, "PBS"),
        ({"SGE_ROOT": "/opt/sge", "JOB_ID": "17", "SGE_TASK_ID": "undefined", "NSLOTS": "4"}, "SGE"),
        ({"LSB_JOBID": "17"}, "LSF"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        # a pilot in a batch job, a batch system in pods
        ({"SLURM_JOB_ID": "17", "_CONDOR_SLOT": "slot1"}, "HTCondor"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "SLURM_JOB_ID": "17"}, "Slurm"),
        # login nodes, other people's job ids, settings
        ({"SGE_ROOT": "/opt/sge", "SGE_CELL": "default", "JOB_ID": "17"}, None),
        ({"LSF_ENVDIR": "/lsf/conf", "LSF_SERVERDIR": "/lsf/etc"}, None),
        ({"PBS_EXEC": "/opt/pbs", "PBS_SERVER": "server", "NCPUS": "4"}, None),
        ({"SLURM_CONF": "/etc/slurm.conf", "SLURM_CPUS_PER_TASK": "4"}, None),
        ({"_CONDOR_SCHEDD_HOST": "schedd", "CONDOR_CONFIG": "/etc/condor"}, None),
        ({"KUBECONFIG": "/home/me/.kube/config"}, None),
        ({"SLURM_JOB_ID": ""}, None),
    ],
)
def test_batch_system_is_known_by_what_it_sets_for_jobs(environ: dict[str, str], system: str | None) -> None:
    assert batch_system(environ) == system


SLURM = {"SLURM_JOB_ID": "17"}
PBS = {"PBS_JOBID": "17.server"}
SGE = {"JOB_ID": "17", "SGE_TASK_ID": "undefined"}
LSF = {"LSB_JOBID": "17"}


@pytest.mark.parametrize(
    ("environ", "granted"),
    [
        ({"NSLOTS": "4", "NCPUS": "4", "SLURM_CPUS_ON_NODE": "4"}, None),
        (SLURM | {"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "24"}, ("Slurm task", 4)),
        (SLURM | {"SLURM_CPUS_ON_NODE": "24", "SLURM_JOB_CPUS_PER_NODE": "24(x2),8"}, ("Slurm job", 24)),
        (SLURM | {"SLURM_CPUS_PER_TASK": "x", "SLURM_CPUS_ON_NODE": "24"}, ("Slurm job", 24)),
        (SLURM | {"SLURM_JOB_CPUS_PER_NODE": "24"}, ("Slurm job", 24)),
        (SLURM | {"SLURM_JOB_CPUS_PER_NODE": "24(x2)"}, ("Slurm job", 24)),
        (SLURM | {"SLURM_JOB_CPUS_PER_NODE": "40,8(x3),24"}, ("Slurm job", 8)),
        (SLURM | {"SLURM_JOB_CPUS_PER_NODE": "(x2),24(x,8(x3),y"}, ("Slurm job", 8)),
        (SLURM | {"SLURM_NTASKS": "48"}, None),
        (PBS | {"NCPUS": "8"}, ("PBS job", 8)),
        # PBS Professional: a line per MPI rank
        (PBS | {"NCPUS": "8", "PBS_NODEFILE": f"FILE {OWN}\nother\nother\n"}, ("PBS job", 8)),
        (PBS | {"NCPUS": "0"}, None),
        # TORQUE
        (PBS | {"PBS_NUM_PPN": "4", "PBS_NP": "8", "PBS_NUM_NODES": "2"}, ("PBS job", 4)),
        (
            PBS | {"PBS_NUM_PPN": "1", "PBS_NP": "5", "PBS_NODEFILE": f"FILE {OWN}\n{OWN}\nb\nb\nb\n"},
            ("PBS job", 2),
        ),
        (
            PBS | {"PBS_NUM_PPN": "4", "PBS_NP": "6", "PBS_NODEFILE": "FILE a\na\na\na\nb\nb\n"},
            ("PBS job", 2),
        ),
        (PBS | {"PBS_NUM_PPN": "4", "NCPUS": "16"}, ("PBS job", 4)),
        (PBS | {"PBS_NP": "8"}, None),
        (SGE | {"NSLOTS": "4", "NHOSTS": "1"}, ("SGE job", 4)),
        (SGE | {"NSLOTS": "4"}, ("SGE job", 4)),
        (
            SGE
            | {
                "NSLOTS": "9",
                "NHOSTS": "2",
                "PE_HOSTFILE": f"FILE {OWN} 2 a.q U\nb 4 a.q U\n{OWN} 3 b.q U\n",
            },
            ("SGE job", 5),
        ),
        (SGE | {"NSLOTS": "9", "NHOSTS": "2", "PE_HOSTFILE": "/missing"}, ("SGE job", 4)),
        (SGE | {"NSLOTS": "2", "NHOSTS": "3"}, ("SGE job", 1)),
        (SGE | {"NSLOTS": "4", "PE_HOSTFILE": "FILE garbled\n\n"}, ("SGE job", 4)),
        (LSF | {"LSB_DJOB_NUMPROC": "4"}, ("LSF job", 4)),
        (LSF | {"LSB_DJOB_NUMPROC": "6", "LSB_MCPU_HOSTS": f"b 2 {OWN.upper()}.site.org 4 "}, ("LSF job", 4)),
        (LSF | {"LSB_DJOB_NUMPROC": "6", "LSB_MCPU_HOSTS": "a 2 b 4"}, ("LSF job", 2)),
        # one host, though by a number; two of them are not one
        (LSF | {"LSB_MCPU_HOSTS": "10.0.0.1 3 10.0.0.2 4"}, ("LSF job", 3)),
        (LSF | {"LSB_DJOB_NUMPROC": "6", "LSB_MCPU_HOSTS": "a b c"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NSLOTS": "4"}, None),
    ],
)
def test_grant_is_this_nodes_share(tmp_path: Path, environ: dict[str, str], granted: tuple[str, int] | None) -> None:
    for name, value in environ.items():
        if value.startswith("FILE "):
            (tmp_path / name).write_text(value[5:])
            environ = environ | {name: str(tmp_path / name)}
    assert granted_cpus(environ) == granted


@pytest.mark.parametrize("value", NOT_CPUS)
@pytest.mark.parametrize(
    ("job", "name"),
    [
        (SLURM, "SLURM_CPUS_PER_TASK"),
        (SLURM, "SLURM_CPUS_ON_NODE"),
        (SLURM, "SLURM_JOB_CPUS_PER_NODE"),
        (PBS, "NCPUS"),
        (PBS, "PBS_NUM_PPN"),
        (PBS | {"PBS_NUM_PPN": ""}, "PBS_NODEFILE"),
        (SGE, "NSLOTS"),
        (SGE, "PE_HOSTFILE"),
        (LSF, "LSB_DJOB_NUMPROC"),
        ({"_CONDOR_SLOT": "slot1"}, "_CONDOR_MACHINE_AD"),
    ],
)
def test_malformed_grant_is_ignored(job: Mapping[str, str], name: str, value: str) -> None:
    assert granted_cpus({**job, name: value}) is None


@pytest.mark.parametrize(
    ("ad", "granted"),
    [
        (b'Name = "slot1"\nDetectedCpus = 64\nCpus = 4\nTotalCpus = 64.0\n', ("HTCondor slot", 4)),
        (b"cpus=4\r\nMemory = 1\r\n", ("HTCondor slot", 4)),
        (b'\xff\xfe\nCpus = 4\nOwner = "\xe9"', ("HTCondor slot", 4)),
        (b"Cpus = ifThenElse(true, 4, 8)\n", None),
        (b"Cpus = 0\n", None),
        (b"TotalCpus = 64\n", None),
        (b"Cpus =", None),
        (b"", None),
        (b"\0\xff\x80", None),
    ],
)
def test_htcondor_slot_is_read_from_the_machine_ad(tmp_path: Path, ad: bytes, granted: tuple[str, int] | None) -> None:
    (tmp_path / ".machine.ad").write_bytes(ad)
    assert granted_cpus({"_CONDOR_MACHINE_AD": str(tmp_path / ".machine.ad")}) == granted


def test_machine_ad_that_cannot_be_read_is_ignored(tmp_path: Path) -> None:
    assert granted_cpus({"_CONDOR_MACHINE_AD": str(tmp_path / "missing")}) is None
    assert granted_cpus({"_CONDOR_MACHINE_AD": str(tmp_path)}) is None


@pytest.mark.usefixtures("machine")
def test_reason_names_what_limits(tmp_path: Path) -> None:
    ad = tmp_path / "ad"
    condor = {"_CONDOR_MACHINE_AD": str(ad)}
    assert usable_cpus({}, tmp_path) == Cpus(64, "the machine has 64 CPUs")
    ad.write_text("Cpus = 4\n")
    assert usable_cpus(condor, tmp_path) == Cpus(4, "the HTCondor slot has 4 CPUs, the machine 64")
    ad.write_text("Cpus = 1\n")
    assert usable_cpus(condor, tmp_path) == Cpus(1, "the HTCondor slot has 1 CPU, the machine 64")
    ad.write_text("Cpus = 64\n")
    assert usable_cpus(condor, tmp_path) == Cpus(64, "the machine has 64 CPUs")
    ad.write_text("Cpus = 128\n")
    assert usable_cpus(condor, tmp_path) == Cpus(64, "the machine has 64 CPUs")


def test_machine_without_affinity_or_of_one_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 1)
    assert usable_cpus({}, tmp_path) == Cpus(1, "the machine has 1 CPU")
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)
    assert usable_cpus({}, tmp_path) == Cpus(1, "the machine has 1 CPU")


@pytest.mark.usefixtures("machine")
def test_least_of_several_limits_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, ["0::/a"], ["/ /sys/fs/cgroup cgroup2 rw"], {"/sys/fs/cgroup/a": v2("600000")})
    slurm = SLURM | {"SLURM_CPUS_ON_NODE": "8"}
    assert usable_cpus(slurm, tmp_path) == Cpus(6, "the cgroup allows 6 CPUs, the machine 64")
    slurm["SLURM_CPUS_PER_TASK"] = "6"
    assert usable_cpus(slurm, tmp_path) == Cpus(6, "the Slurm task has 6 CPUs, the machine 64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 7, 9})
    assert usable_cpus(slurm, tmp_path) == Cpus(3, "the affinity mask has 3 CPUs, the machine 64")


def plant(root: Path, cgroup: list[str], mounts: list[str], files: dict[str, dict[str, str]]) -> None:
    """Make a file tree: the lines of /proc/self/cgroup, mounts as 'root point type options', cgroup files."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("".join(f"{line}\n" for line in cgroup))
    lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", "23 22 0:5 / /proc rw - proc proc rw"]
    for number, mount in enumerate(mounts, 30):
        seen, point, kind, options = mount.split()
        tags = "shared:4 master:2 " if number % 2 else ""
        lines.append(f"{number} 22 0:{number} {seen} {point} rw,nosuid {tags}- {kind} {kind} {options}")
    (proc / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    for directory, contents in files.items():
        path = root / directory.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (path / name).write_text(text)


def v1(quota: int, period: int = 100000) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": f"{period}\n"}


def v2(quota: str, period: int = 100000) -> dict[str, str]:
    return {"cpu.max": f"{quota} {period}\n"}


V1 = "/sys/fs/cgroup/cpu,cpuacct"
V1_MOUNTS = [
    "/ /sys/fs/cgroup/cpuset cgroup rw,cpuset",
    f"/ {V1} cgroup rw,cpu,cpuacct",
    "/ /sys/fs/cgroup/systemd cgroup rw,name=systemd",
]
V1_OWN = ["5:cpuset:/other", "4:cpu,cpuacct:/slice/job", "1:name=systemd:/elsewhere"]
V2 = "/sys/fs/cgroup"
V2_MOUNTS = [f"/ {V2} cgroup2 rw,nsdelegate"]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "cpus"),
    [
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("400000")}, 4, id="v2"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("max")}, None, id="v2 no limit"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("9000000")}, None, id="v2 more than the machine"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("75000", 50000)}, 1.5, id="v2 part of a CPU"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("1000")}, 0.01, id="v2 less than one"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("100000")}, 1, id="v2 just one"),
        pytest.param(
            ["0::/a/b/c"],
            V2_MOUNTS,
            {f"{V2}/a": v2("200000"), f"{V2}/a/b": v2("max"), f"{V2}/a/b/c": v2("800000")},
            2,
            id="v2 tighter above",
        ),
        pytest.param(
            ["0::/a/b"],
            V2_MOUNTS,
            {f"{V2}/a": v2("800000"), f"{V2}/a/b": v2("200000"), f"{V2}/a/x": v2("100000")},
            2,
            id="v2 tighter below, sibling's is not ours",
        ),
        pytest.param(["0::/a/b"], V2_MOUNTS, {f"{V2}/a": v2("300000")}, 3, id="v2 own files missing"),
        pytest.param(["0::/"], V2_MOUNTS, {V2: v2("300000")}, 3, id="v2 namespace, own is its root"),
        pytest.param(
            ["0::/job:x y"],
            V2_MOUNTS,
            {f"{V2}/job:x y": v2("300000")},
            3,
            id="v2 name with colon and blank",
        ),
        pytest.param(
            ["0::/docker/abc/in"],
            [f"/docker/abc {V2} cgroup2 rw"],
            {V2: v2("300000"), f"{V2}/in": v2("max"), f"{V2}/docker/abc/in": v2("100000")},
            3,
            id="v2 mount shows a part",
        ),
        pytest.param(
            ["0::/../.."],
            V2_MOUNTS,
            {V2: v2("300000"), "/sys": v2("100000"), "/sys/fs": v2("100000"), "/": v2("100000")},
            3,
            id="v2 own is above the namespace: never above the mount",
        ),
        pytest.param(
            ["0::/../../job"],
            [f"/../.. {V2} cgroup2 rw"],
            {V2: v2("300000"), f"{V2}/job": v2("200000")},
            2,
            id="v2 mount from above the namespace, own within",
        ),
        pytest.param(
            ["0::/"],
            [f"/../.. {V2} cgroup2 rw"],
            {V2: v2("300000")},
            3,
            id="v2 mount from above the namespace",
        ),
        pytest.param(
            ["0::/user"],
            [*V2_MOUNTS, "/lxc /srv/lxc cgroup2 rw"],
            {f"{V2}/user": v2("300000"), "/srv/lxc": v2("100000")},
            3,
            id="v2 another's part mounted elsewhere",
        ),
        pytest.param(
            ["0::/job"],
            [r"/ /sys/fs/c\040group cgroup2 rw"],
            {"/sys/fs/c group/job": v2("300000")},
            3,
            id="v2 mount point with a blank",
        ),
        pytest.param(V1_OWN, V1_MOUNTS, {f"{V1}/slice/job": v1(400000)}, 4, id="v1"),
        pytest.param(V1_OWN, V1_MOUNTS, {f"{V1}/slice/job": v1(-1), V1: v1(-1)}, None, id="v1 no limit"),
        pytest.param(V1_OWN, V1_MOUNTS, {f"{V1}/slice/job": v1(25000, 10000)}, 2.5, id="v1 part of a CPU"),
        pytest.param(
            V1_OWN,
            V1_MOUNTS,
            {f"{V1}/slice": v1(300000), f"{V1}/slice/job": v1(-1), f"{V1}/other": v1(100000)},
            3,
            id="v1 tighter above",
        ),
        pytest.param(
            ["1:cpu:/job"],
            ["/ /sys/fs/cgroup/cpu cgroup rw,cpu", "/ /sys/fs/cgroup/cpuacct cgroup rw,cpuacct"],
            {"/sys/fs/cgroup/cpu/job": v1(300000), "/sys/fs/cgroup/cpuacct/job": v1(100000)},
            3,
            id="v1 mounted apart",
        ),
        pytest.param(
            ["3:cpuacct,cpu:/docker/abc"],
            [f"/docker/abc {V1} cgroup rw,cpuacct,cpu"],
            {V1: v1(300000)},
            3,
            id="v1 container",
        ),
        pytest.param(["3:cpuset:/job"], V1_MOUNTS, {f"{V1}/job": v1(100000)}, None, id="v1 without cpu"),
        pytest.param(V1_OWN, V1_MOUNTS, {f"{V1}/slice/job": {"cpu.cfs_quota_us": "9"}}, None, id="v1 no period"),
        pytest.param(V1_OWN, V1_MOUNTS, {f"{V1}/slice/job": v1(100000, 0)}, None, id="v1 period of zero"),
        pytest.param(
            [*V1_OWN, "0::/job"],
            [*V1_MOUNTS, "/ /sys/fs/cgroup/unified cgroup2 rw"],
            {f"{V1}/slice/job": v1(300000), "/sys/fs/cgroup/unified/job": {"cgroup.procs": ""}},
            3,
            id="hybrid, cpu in v1",
        ),
        pytest.param(
            ["5:cpuset:/", "0::/job"],
            ["/ /sys/fs/cgroup/cpuset cgroup rw,cpuset", "/ /sys/fs/cgroup/unified cgroup2 rw"],
            {"/sys/fs/cgroup/unified/job": v2("300000")},
            3,
            id="hybrid, cpu in v2",
        ),
        pytest.param(["0::/job"], [], {}, None, id="nothing mounted"),
        pytest.param(["0::/job"], V2_MOUNTS, {}, None, id="no files"),
        pytest.param(["0::/job"], V2_MOUNTS, {f"{V2}/job": {"cpu.max": "lots\n"}}, None, id="garbled quota"),
        pytest.param(
            ["", ":", "0:", "x::/job", "1:cpu", "0::", "0::job", "1:cpu://job"],
            V2_MOUNTS,
            {f"{V2}/job": v2("300000")},
            None,
            id="garbled cgroup",
        ),
    ],
)
def test_quota_of_own_cgroup_and_those_above(
    tmp_path: Path, cgroup: list[str], mounts: list[str], files: dict[str, dict[str, str]], cpus: float | None
) -> None:
    plant(tmp_path, cgroup, mounts, files)
    if cpus is None:
        assert usable_cpus({}, tmp_path) == Cpus(64, "the machine has 64 CPUs")
    else:
        allowed = "1 CPU" if cpus == 1 else f"{cpus} CPUs"
        rounded_up = int(cpus) + (cpus != int(cpus))
        assert usable_cpus({}, tmp_path) == Cpus(rounded_up, f"the cgroup allows {allowed}, the machine 64")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\n \n - \n1 2 3 - - -\n", b"\xff\0\n", b"9 9 9 / sys x - cgroup2 x x"]
)
def test_proc_files_missing_or_garbled(tmp_path: Path, name: str, content: bytes | None) -> None:
    plant(tmp_path, ["0::/job"], V2_MOUNTS, {f"{V2}/job": v2("300000")})
    if content is None:
        (tmp_path / "proc/self" / name).unlink()
    else:
        (tmp_path / "proc/self" / name).write_bytes(content)
    assert usable_cpus({}, tmp_path) == Cpus(64, "the machine has 64 CPUs")


def in_a_process(before: str) -> Cpus:
    """Run the statement `before`, then usable_cpus on the real machine, in a process of its own."""
    script = f"""import os; {before}
from workerbee.cpus import usable_cpus
found = usable_cpus({{}})
print(found.count, found.reason)"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    count, _, reason = done.stdout.strip().partition(" ")
    return Cpus(int(count), reason)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity masks")
@pytest.mark.skipif(psutil.cpu_count() == 1, reason="one CPU cannot be made fewer")
def test_real_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    found = in_a_process(f"os.sched_setaffinity(0, {{{one}}})")
    assert found.count == 1
    # where all tests run under a tighter limit already, that one stays the reason
    assert found.reason in (
        f"the affinity mask has 1 CPU, the machine {psutil.cpu_count()}",
        usable_cpus({}).reason,
    )


def test_machine_is_not_what_python_is_told_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # HTCondor sets it for jobs, and os.cpu_count() believes it from Python 3.13 on
    real = in_a_process("pass")
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1000")
    assert in_a_process("pass") == real


def test_real_quota_above_own_cgroup(tmp_path: Path) -> None:
    """Half a CPU for a cgroup, the process in one below it; on a made-up tree where none can be made."""
    mount, files = writable_cpu_hierarchy()
    above = mount / f"workerbee-test-{os.getpid()}"
    own = above / "job"
    try:
        own.mkdir(parents=True)
        for name, text in files.items():
            (above / name).write_text(text)
    except OSError as error:
        reason: str | None = f"no cgroup with a quota can be made here, so on a made-up tree only: {error}"
        plant(tmp_path, ["0::/above/job"], V2_MOUNTS, {f"{V2}/above": v2("50000"), f"{V2}/above/job": v2("max")})
        found = usable_cpus({}, tmp_path)
    else:
        reason = None
        found = in_a_process(
            f"import pathlib; pathlib.Path({str(own / 'cgroup.procs')!r}).write_text(str(os.getpid()))"
        )
    finally:
        for directory in (own, above):
            if directory.exists():
                directory.rmdir()
    assert found == Cpus(1, f"the cgroup allows 0.5 CPUs, the machine {psutil.cpu_count()}")
    if reason:
        pytest.skip(reason)


def writable_cpu_hierarchy() -> tuple[Path, dict[str, str]]:
    """Where the hierarchy with CPU quotas is mounted, and the files that make half a CPU."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        mounts = []
    for _, point, kind, options, *_ in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(point), v1(50000)
    for _, point, kind, *_ in mounts:
        if kind == "cgroup2":
            return Path(point), v2("50000")
    return Path("/nowhere/cgroup"), {}
