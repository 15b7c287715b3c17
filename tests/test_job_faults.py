"""What jobs do to the process they run in: each harm is charged to its job, or to nobody, and the others complete."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import locale
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import psutil
import pytest

from workerbee import postgres_jobset

OWN = "a job's own words\n"
KEPT = []  # what a job keeps open or alive
PIPES_OF_PYTEST = set()


def bus_error():
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        pages = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        pages[0]


def division_in_c():
    ctypes.CDLL(None).div(1, 0)
    signal.raise_signal(signal.SIGFPE)  # where the processor does not trap it


def illegal_instruction():
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except PermissionError:
        signal.raise_signal(signal.SIGILL)
    page[:8] = b"\x0f\x0b\x0f\x0b\x0f\x0b\x0f\x0b" if os.uname().machine == "x86_64" else bytes(8)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def c_stack_overflow():
    # The parser of regular expressions goes one level down for each of these.
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(1024), b"(" * 1_000_000, 1)


def segv_ignored():
    signal.signal(signal.SIGSEGV, signal.SIG_IGN)
    ctypes.string_at(0)


def becomes_another_program():
    os.execv(shutil.which("true"), ["true"])


def kills_its_group():
    os.killpg(0, signal.SIGKILL)


def cpu_limit():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 3))
    while True:
        pass


def getpid_that_lies():
    # The bee takes itself for a fork of itself. The job did not complete, and that is what counts.
    os.getpid = lambda: 1


def memory_limit():
    size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
    try:
        while True:
            KEPT.append(bytearray(1 << 20))
    finally:
        KEPT.clear()


def recursion():
    recursion()


def keyboard_interrupt():
    raise KeyboardInterrupt


class ExitingError(Exception):
    def __str__(self):
        raise SystemExit(0)


class InterruptingError(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class UnpicklableError(Exception):
    def __init__(self, one, two):
        self.lock = threading.Lock()
        super().__init__(f"{one} {two}")


class NamelessMeta(type):
    def __getattribute__(cls, name):
        if name in ("__module__", "__name__", "__qualname__"):
            raise SystemExit(name)
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=NamelessMeta):
    @property
    def __class__(self):
        raise SystemExit("no class")


class LyingError(Exception):
    @property
    def __class__(self):
        return int


class Text(str):
    __slots__ = ()

    def __len__(self):
        raise SystemExit(0)

    def replace(self, *_):
        return self


class OddlyWordedError(Exception):
    def __str__(self):
        return Text("words")


class LongNamedError(Exception):
    pass


LongNamedError.__module__ = "m" * 1_000_000

HERE = f"{__name__}."
# An exception, and the type and message by which it is recorded.
EXCEPTIONS = {
    "exiting": (ExitingError, (), HERE + "ExitingError", "<its __str__ raised SystemExit>"),
    "interrupting": (InterruptingError, (), HERE + "InterruptingError", "<its __str__ raised KeyboardInterrupt>"),
    "unpicklable": (UnpicklableError, (1, 2), HERE + "UnpicklableError", "1 2"),
    "nameless": (NamelessError, ("m",), "<its class's name raised SystemExit>", "m"),
    "lying": (LyingError, ("m",), HERE + "LyingError", "m"),
    "worded": (OddlyWordedError, (), HERE + "OddlyWordedError", "words"),
    "huge": (ValueError, ("x" * 100_000_000,), "ValueError", None),
    "named": (LongNamedError, ("m",), None, "m"),
}
if sys.version_info >= (3, 11):
    group = ("all", [ValueError("a"), ExceptionGroup("some", [KeyError("b")])])  # noqa: F821 - since 3.11
    EXCEPTIONS["group"] = (ExceptionGroup, group, "ExceptionGroup", "all (2 sub-exceptions)")  # noqa: F821


@pytest.mark.parametrize("processes", [None, 1])
def test_whatever_an_exception_says_of_itself_is_recorded_within_bounds(address, sql, processes):
    def job(job_id, _data):
        if job_id in EXCEPTIONS:
            kind, arguments, _, _ = EXCEPTIONS[job_id]
            raise kind(*arguments)

    summary = postgres_jobset(
        "raised", job, [*EXCEPTIONS, "a", "b"], **address, verbose=False, processes=processes, max_attempts=1
    )
    assert (summary.complete, summary.failed, summary.crashed_here) == (2, len(EXCEPTIONS), 0)
    found = {job_id: row for job_id, *row in sql("SELECT job_id, type, message, kind FROM wb_failures")}
    for name, (_, _, type_, message) in EXCEPTIONS.items():
        assert found[name] == [type_ or found[name][0], message or found[name][1], "error"]
    assert sql("SELECT max(length(type)) < 300, max(length(message)) < 5000, max(length(stack)) < 17000 "
               "FROM wb_failures") == [(True, True, True)]  # fmt: skip
    if "group" in EXCEPTIONS:
        ((stack,),) = sql("SELECT stack FROM wb_failures WHERE job_id = 'group'")
        assert "ValueError: a" in stack and "KeyError: 'b'" in stack


# Deeds that end the job's attempt: by its bee's death, or by an exception.
CHARGED = {
    bus_error: ("crash", "SIGBUS"),
    division_in_c: ("crash", "SIGFPE"),
    illegal_instruction: ("crash", "SIGILL"),
    c_stack_overflow: ("crash", "SIGSEGV"),
    segv_ignored: ("crash", "SIGSEGV"),
    becomes_another_program: ("crash", "exit"),
    kills_its_group: ("crash", "SIGKILL"),
    cpu_limit: ("crash", "SIGXCPU"),
    getpid_that_lies: ("crash", "exit"),
    memory_limit: ("error", "MemoryError"),
    recursion: ("error", "RecursionError"),
    keyboard_interrupt: ("error", "KeyboardInterrupt"),
}


def close_everything():
    os.closerange(0, 65536)


def open_files_in_their_place():
    close_everything()
    KEPT.extend(os.open(f"own{n}", os.O_RDWR | os.O_CREAT | os.O_APPEND) for n in range(64))
    for fd in KEPT:
        os.write(fd, OWN.encode())


def close_everything_and_raise():
    open_files_in_their_place()
    raise ValueError("and then it raises")


def pipes():
    """The pipes that are open here, by descriptor."""
    links = {int(fd.name): str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    return {fd: link for fd, link in links.items() if link.startswith("pipe:")}


def write_to_stale_descriptors():
    words = b'{}\n[1]\n"x"\nnull\n\xff\0 {"kind": "none"}\n{"other": 1}\n' + b"[" * 50_000 + b"\nno end"
    for fd, pipe in pipes().items():
        if fd > 2 and pipe not in PIPES_OF_PYTEST:
            with contextlib.suppress(OSError):  # a reading end
                os.write(fd, words)


def use_up_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    with pytest.raises(OSError, match="Too many open files"):
        while True:
            KEPT.append(os.open(os.devnull, os.O_RDONLY))


def leave_where_it_is():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()
    os.umask(0o777)
    for name in ("de_DE.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            pass


def ignore_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def leave_a_timer():
    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 3600)
    signal.setitimer(signal.ITIMER_PROF, 3600)


def limit_everything():
    for name in ("NPROC", "CORE", "FSIZE", "STACK", "MEMLOCK"):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (0, 0))


class Deaf:
    def write(self, *_):
        raise OSError

    flush = write


def no_descriptors():
    # The bee cannot even wait for an answer any more: it dies between two jobs, and neither is to blame.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def replace_output():
    sys.stdout = sys.stderr = Deaf()


def no_output():
    sys.stdout = sys.stderr = None


def close_output():
    sys.stdout.close()
    sys.stderr.close()


def output_that_exits():
    class Exiting:
        def flush(self):
            raise SystemExit(9)

    sys.stdout = sys.stderr = Exiting()
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[0] == child


def hook_that_raises():
    sys.excepthook = None
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    assert os.waitpid(child, 0)[1] >> 8 == 1


def pool_of_its_own():
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    KEPT.append(multiprocessing.Pool(1))  # and one that it forgets


def empty_environment():
    os.environ.clear()
    os.environ["PGHOST"] = "nowhere.invalid"


def group_of_another():
    os.setpgid(0, os.getpgid(os.getppid()))


def outlive_its_parent():
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def recursion_limit():
    sys.setrecursionlimit(1_000_000)


def no_collector():
    gc.disable()


def other_clock():
    time.monotonic = lambda: -1e9


def other_parser():
    json.loads = lambda *_: {"n": -1}


def daemon_threads():
    for daemon in (False, True):
        threading.Thread(target=threading.Event().wait, daemon=daemon).start()


# Deeds after which the job returns: it is COMPLETE, and its bee goes on.
HARMLESS = [
    close_everything, open_files_in_their_place, write_to_stale_descriptors, use_up_descriptors, leave_where_it_is,
    ignore_signals, leave_a_timer, limit_everything, no_descriptors, replace_output, no_output, close_output,
    output_that_exits, hook_that_raises, pool_of_its_own, empty_environment, group_of_another, outlive_its_parent,
    recursion_limit, no_collector, other_clock, other_parser, daemon_threads,
]  # fmt: skip
RAISED = {close_everything_and_raise: ("error", "ValueError")}


@pytest.mark.parametrize("logs", [False, True])
def test_harm_stays_with_the_job_that_does_it(address, sql, tmp_path, logs):
    """Each bee's first job does one deed of the table, and those that come after it in that bee do none."""
    deeds = [*CHARGED, *RAISED, *HARMLESS]
    expected = {deed.__name__: charge for deed, charge in {**CHARGED, **RAISED}.items()}
    done = tmp_path / "done"
    done.mkdir()
    PIPES_OF_PYTEST.update(pipes().values())
    calls = 0

    def job(job_id, data):
        nonlocal calls
        calls += 1
        if calls > 1:
            assert data == {"n": int(job_id)}
            assert signal.getitimer(signal.ITIMER_REAL) == signal.getitimer(signal.ITIMER_PROF) == (0, 0)
            return
        for deed in deeds:
            try:
                fd = os.open(done / deed.__name__, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(fd, job_id.encode())
            os.close(fd)
            own = done.parent / f"{deed.__name__}_files"
            own.mkdir()
            os.chdir(own)
            print("begins")
            deed()
            break

    ids = {str(n): {"n": n} for n in range(3 * len(deeds))}
    log_dir = tmp_path / "logs" if logs else None
    summary = postgres_jobset(
        "harm", job, ids, ids, **address, verbose=False, processes=2, max_attempts=1, max_crashes=1,
        max_jobs_per_bee=3, log_dir=log_dir,
    )  # fmt: skip
    doers = {path.read_text(): path.name for path in done.iterdir()}
    assert sorted(doers.values()) == sorted(deed.__name__ for deed in deeds)
    failures = sql("SELECT job_id, kind, type, final FROM wb_failures")
    assert {doers.get(job_id, job_id): (kind, type_) for job_id, kind, type_, _ in failures} == expected
    assert len(failures) == len(expected) and all(final for _, _, _, final in failures)
    crashes = sum(kind == "crash" for kind, _ in expected.values())
    assert (summary.complete, summary.failed) == (len(ids) - len(expected), len(expected))
    assert (summary.completed_here, summary.failed_here) == (summary.complete, summary.failed)
    assert summary.crashed_here == crashes
    assert sql("SELECT count(*) FROM wb_jobs__harm WHERE state = 'COMPLETE'") == [(summary.complete,)]
    assert sql("SELECT count(*) FROM wb__harm WHERE seconds < 0") == [(0,)]
    assert sql("SELECT count(*) FROM wb_claims__harm") == [(0,)]
    # Nothing of ours went into what a job opened; nothing that it started is left.
    files = [path for deed in ("open_files_in_their_place", "close_everything_and_raise")
             for path in (tmp_path / f"{deed}_files").iterdir()]  # fmt: skip
    assert len(files) == 128
    assert {path.read_text() for path in files} == {OWN}
    assert [child for child in psutil.Process().children() if "workerbee" in child.name()] == []
    stacks = dict(sql("SELECT type, stack FROM wb_failures WHERE kind = 'crash'"))
    for number in ("SIGBUS", "SIGFPE", "SIGILL"):
        assert "test_job_faults.py" in stacks[number]


class Hog:
    """What a job has in memory."""


def test_a_failed_job_leaves_nothing_in_memory(address):
    hogs = []

    def job(_job_id, _data):
        if hogs:
            assert hogs[0]() is None
            return
        gc.disable()
        hog = Hog()
        hogs.append(weakref.ref(hog))
        raise ValueError

    summary = postgres_jobset("hogs", job, ["a", "b"], **address, verbose=False, processes=1, max_attempts=1)
    assert (summary.complete, summary.failed) == (1, 1)


def test_a_thread_that_ends_the_process_later_costs_one_attempt_of_some_job(address, sql, tmp_path):
    claimed = threading.Event()

    def leave():
        claimed.wait()
        os._exit(7)

    def job(_job_id, _data):
        first = tmp_path / "first"
        if not first.exists():
            first.touch()
            threading.Thread(target=leave).start()
        elif threading.active_count() > 1:
            claimed.set()
            threading.Event().wait()

    summary = postgres_jobset("later", job, ["a", "b", "c"], **address, verbose=False, processes=1)
    assert summary.ok
    assert sql("SELECT kind, exit_code, final FROM wb_failures") == [("crash", 7, False)]


def test_a_full_disk_under_the_logs_fails_no_job(script, sql, tmp_path):
    # A limit to the size of files, for the node alone, is such a disk for everybody's tests.
    process = script("""
        import os, resource
        from workerbee import postgres_jobset

        def job(job_id, data):
            print("x" * 160_000)
            os.write(2, b"y") if job_id == "0" else None
            if job_id == "raises":
                raise ValueError

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        ids = [*map(str, range(1, 30)), "raises"]
        print(postgres_jobset("disk", job, ids, processes=2, max_attempts=1, log_dir="logs", verbose=False))
    """)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "29 of 30 jobs complete, 1 failed" in said
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert max(sizes) == 1 << 20
    ((log,),) = sql("SELECT length(log) FROM wb_failures")
    assert log < 17_000


@pytest.mark.parametrize("processes", [None, 1])
def test_a_job_may_have_a_database_of_its_own(script, processes):
    """And its bee, whose connection breaks, comes back to the jobset's."""
    process = script(
        """
        import os, sys
        from workerbee import postgres_jobset

        elsewhere = {"PGHOST": "/nowhere", "PGDATABASE": "other", "PGUSER": "nobody", "HOME": "/"}
        calls = 0

        def job(job_id, data):
            global calls
            calls += 1
            if calls > 1:
                assert {name: os.environ[name] for name in elsewhere} == elsewhere
            os.environ.update(elsewhere)
            for fd in os.listdir("/proc/self/fd"):
                try:
                    if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                        os.close(int(fd))
                except OSError:
                    pass

        print(postgres_jobset("elsewhere", job, ["a", "b", "c"], processes=eval(sys.argv[1])))
        """,
        repr(processes),
    )
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "3 of 3 jobs complete, 0 failed" in said


def test_a_fork_that_comes_back_stays_out_of_the_callers_code(script, tmp_path):
    process = script("""
        import os, sys
        from workerbee import postgres_jobset

        def job(job_id, data):
            out, sys.stdout = sys.stdout, None
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                sys.stdout = out

        assert postgres_jobset("forked", job, ["a", "b"], verbose=False).ok
        with open("after", "a") as file:
            file.write(f"{os.getpid()}\\n")
    """)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert (tmp_path / "after").read_text() == f"{process.pid}\n"
