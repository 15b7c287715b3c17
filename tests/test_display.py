"""What a person sees: on a terminal, through a pipe, and when there is nobody to see it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections import Counter
from multiprocessing import Pipe
from types import SimpleNamespace

import pyte
import pytest

from tests.helpers import wait_until
from workerbee.board import Board
from workerbee.display import Lines, ended, told
from workerbee.events import Event, Receiver, Sender
from workerbee.job import Charge, Claim, Failure, FailureGroup, Job, JobsetSummary, Kind, State
from workerbee.output import LONGEST_LINE, PIECE, Output
from workerbee.progress import Progress, duration, pace
from workerbee.slot import Phase
from workerbee.terminal import harmless
from workerbee.text import printable, shortened

JOBS = """
import ctypes, os, sys, time
from pathlib import Path
from workerbee import postgres_jobset

def job(job_id, data):
    kind = job_id.split("-")[0]
    if kind == "print":
        print(f"start {job_id} \\x1b[32mgreen {'.' * 200} end {job_id}")
    if kind == "control":
        print("title \\x1b]0;mine\\x07, clear \\x1b[2J, up \\x1b[9A, bell \\x07")
    if kind == "bar":
        print("0%\\r50%\\r100%")
    if kind == "error":
        print("to stderr", file=sys.stderr)
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "exit":
        print("last words", end="", flush=True)
        os._exit(3)
    if kind == "raise":
        raise ValueError(f"no\\nway {data.get('more', '')}")
    while kind == "wait" and not Path("go").exists():
        time.sleep(0.01)

def run(job_ids, jobset_id="display", **options):
    options = {"processes": 3, "max_crashes": 2, "max_attempts": 2, **options}
    return postgres_jobset(jobset_id, job, job_ids, **options)
"""

BAR = re.compile("[━╸╺]")


@pytest.fixture
def command(tmp_path, environ):
    """The command and the surroundings of a script that calls `run(...)` once, with JOBS before it."""

    def make(call, **more):
        path = tmp_path / "script.py"
        path.write_text(JOBS + textwrap.dedent(call))
        return [sys.executable, str(path)], {"cwd": tmp_path, "env": {**environ, "TERM": "xterm-256color", **more}}

    return make


@pytest.fixture
def plain(command):
    """Run such a script with pipes for stdout and stderr."""

    def run(call, **more):
        arguments, surroundings = command(call, **more)
        return subprocess.run(arguments, **surroundings, capture_output=True, text=True, check=True)

    return run


class Terminal:
    """A process on a pseudo-terminal, and what its screen shows."""

    def __init__(self, arguments, surroundings, rows, stderr, columns=80):
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.emulated = True
        self._fd, tty = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            arguments,
            **surroundings,
            stdin=tty,
            stdout=tty,
            stderr=stderr or tty,
            start_new_session=True,
            # Its own terminal, so that Ctrl-C means something there.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - tests have no threads
        )
        os.close(tty)

    def resize(self, columns, rows):
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def type(self, text):
        """Press the keys of `text`."""
        os.write(self._fd, text.encode())

    def look(self):
        """The rows of the screen as they are now."""
        while select.select([self._fd], [], [], 0)[0]:
            try:
                piece = os.read(self._fd, 65536)
            except OSError:  # Linux: the last process has closed the terminal
                break
            self.raw += piece
            if self.emulated:
                self._stream.feed(piece)
        return [row.rstrip() for row in self.screen.display]

    def block(self):
        """What is not above the cursor, which rests where the bar begins."""
        return [row.rstrip() for row in self.screen.display[self.screen.cursor.y :]]

    def rows(self):
        """All rows since the beginning."""
        past = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        return [row.rstrip() for row in [*past, *self.screen.display]]

    def everything(self):
        """All rows since the beginning, once the process has ended."""
        wait_until(lambda: self.look() and self.process.poll() is not None, "the end of the process")
        self.look()
        return self.rows()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal(command):
    """Run such a script on a terminal."""
    started = []

    def start(call, rows=24, stderr=None, **more):
        started.append(Terminal(*command(call, **more), rows=rows, stderr=stderr))
        return started[-1]

    yield start
    for one in started:
        one.close()


def bars(rows):
    return [row for row in rows if BAR.search(row)]


def test_bar(terminal, tmp_path):
    long = "wait-" + "/deep" * 20 + "/lenna.png"
    run = terminal(f"""
        prints = [f"print-{{n}}" for n in range(40)]
        run([*prints, "segv-x", "exit-x", "raise-\\x1b[31mx", "control-x", "bar-x", "error-x", {long!r}])
    """)
    waited = re.compile(r"43 of 47 done, 3 failed, 1 running, .*\nlongest: 'wait-")
    wait_until(lambda: waited.search("\n".join(run.look())) and bars(run.block()[:1]))
    shown = [row for row in run.rows() if row]
    assert len(bars(shown)) == 1
    bar, _, longest = shown[-3:]
    assert bars([bar])
    assert bar.endswith(" 97 %")
    assert re.fullmatch(r"longest: 'wait-/.*….*/lenna\.png' \d+ s", longest)
    assert run.screen.cursor.x == 0
    assert run.block()[0] == bar
    text = "\n".join(run.rows())
    joined = "".join(row.ljust(80) for row in run.rows())
    for n in range(40):
        assert joined.count(f"start print-{n} green {'.' * 200} end print-{n} ") == 1
    for line in (
        r"^bee \d died of SIGSEGV in job 'segv-x' \(1 of 2\), started again$",
        r"^bee \d died of SIGSEGV in job 'segv-x' \(2 of 2\), job FAILED$",
        r"^bee \d died with exit code 3 in job 'exit-x' \(1 of 2\), started again$",
        r"^job 'raise-\\x1b\[31mx' failed: ValueError: no\\nway  \(1 of 2\), tried again last$",
        r"^title , clear , up , bell \\x07$",
        r"^100%$",
        r"^to stderr$",
    ):
        assert len(re.findall(line, text, re.MULTILINE)) == 1, line
    assert run.rows().count("last words") == 2

    # Narrower windows, and the old one again: still one bar, that fits.
    for columns in (45, 20, 80):
        run.resize(columns, 24)
        wait_until(lambda: len(bars(run.look())) == 1 and max(map(len, run.block())) < run.screen.columns)
    wait_until(lambda: run.look() and run.block()[2:] and run.block()[2].startswith("longest: "))
    (tmp_path / "go").touch()

    rows = run.everything()
    assert run.process.returncode == 0
    assert run.screen.title == ""
    assert b"\x1b[32m" in run.raw
    assert [bar[-5:] for bar in bars(rows)] == ["100 %"]
    end = rows.index(bars(rows)[0])
    assert rows[end + 1].startswith("44 of 47 done, 3 failed, 0 running, ")
    assert rows[end + 2] == "All jobs are exhausted, terminating."


def test_stop_keeps_the_bar_whole(terminal, tmp_path):
    run = terminal("""
        run([f"wait-{n}" for n in range(4)], processes=2)
    """)
    wait_until(lambda: "0 of 4 done, 0 failed, 2 running" in "\n".join(run.look()))
    run.process.send_signal(2)
    wait_until(lambda: "SIGINT: no new claims; 2 running jobs" in "\n".join(run.look()))
    (tmp_path / "go").touch()
    rows = run.everything()
    assert run.process.returncode == -2
    assert len(bars(rows)) == 1
    assert any(row.startswith("2 of 4 done, 0 failed, 0 running") for row in rows)
    assert "The same call goes on with the 2 jobs left." in rows
    assert not any(" left" in row for row in bars(rows))


def test_low_terminal(terminal):
    run = terminal('run([f"raise-{n}" for n in range(5)])', rows=1)
    assert len(bars(run.everything())) == 1


def test_no_color(terminal):
    run = terminal('run(["print-1", "raise-x"])', NO_COLOR="1")
    run.everything()
    assert bars(run.look())
    # The job's own choice is the job's.
    assert set(re.findall(rb"\x1b\[[\d;]*m", run.raw)) <= {b"\x1b[32m", b"\x1b[m", b"\x1b[2m", b"\x1b[0m"}


def test_dumb_terminal_gets_plain_lines(terminal):
    run = terminal('run(["raise-x"])', TERM="dumb")
    assert re.search(r"^job 'raise-x' failed: ", "\n".join(run.everything()), re.MULTILINE)
    assert b"\x1b" not in run.raw
    assert not bars(run.look())


def test_stderr_goes_its_own_way(terminal, tmp_path):
    with (tmp_path / "err").open("wb") as file:
        run = terminal('run(["error-x"])', stderr=file)
    assert "to stderr" not in run.everything()
    assert (tmp_path / "err").read_text() == "to stderr\n"


def test_plain_lines(plain):
    ran = plain("""
        run(["segv-x", "exit-x", "raise-\\x1b[31mx", "control-x", "bar-x", "error-x"])
    """)
    said = [re.sub(r"\d+\.\d s", "T s", re.sub(r"^bee \d", "bee N", line)) for line in ran.stdout.split("\n")]
    start = said.index("-" * 80) + 1
    ours = said.index("All jobs are exhausted, terminating.")
    assert Counter(said[start:ours]) == Counter(
        {
            "bee N died of SIGSEGV in job 'segv-x' (1 of 2), started again": 1,
            "bee N died of SIGSEGV in job 'segv-x' (2 of 2), job FAILED": 1,
            "bee N died with exit code 3 in job 'exit-x' (1 of 2), started again": 1,
            "bee N died with exit code 3 in job 'exit-x' (2 of 2), job FAILED": 1,
            "job 'raise-\\x1b[31mx' failed: ValueError: no\\nway  (1 of 2), tried again last": 1,
            "job 'raise-\\x1b[31mx' failed: ValueError: no\\nway  (2 of 2), job FAILED": 1,
            # What a job prints is its own affair where no terminal can be hurt by it; text=True reads \r as a newline.
            "title \x1b]0;mine\x07, clear \x1b[2J, up \x1b[9A, bell \x07": 1,
            "0%": 1,
            "50%": 1,
            "100%": 1,
            "last words": 2,
        }
    )
    assert sorted(said[ours + 2 : ours + 5]) == [
        "       2 x crash: SIGSEGV, e.g. job 'segv-x'",
        "       2 x crash: exit code 3, e.g. job 'exit-x'",
        "       2 x error: ValueError: no\\nway , e.g. job 'raise-\\x1b[31mx'",
    ]
    assert said[ours + 1] == "Failed attempts by cause:"
    assert said[ours + 5] == "Each with its stack: workerbee failures --full display"
    assert said[ours + 6].startswith("jobset 'display': 3 of 6 jobs complete, 3 failed; here 3 completed, 3 failed, ")
    assert said[ours + 7 :] == [""]
    assert ran.stderr == "to stderr\n"


def test_lines_of_many_bees_never_mix(plain):
    ran = plain("""
        def job(job_id, data):
            for n in range(50):
                for stream in (sys.stdout, sys.stderr):
                    for word in (job_id, " ", str(n), " é", "x" * 3000, " ", job_id, "\\n"):
                        stream.write(word)
                        stream.flush()
        run([f"job{n}" for n in range(24)], processes=8)
    """)
    wanted = Counter({f"job{job} {n} é{'x' * 3000} job{job}": 1 for n in range(50) for job in range(24)})
    assert Counter(line for line in ran.stdout.splitlines() if "xxx" in line) == wanted
    assert Counter(ran.stderr.splitlines()) == wanted


def test_quiet(plain):
    ran = plain('run(["segv-x", "raise-x", "error-x", "bar-x"], verbose=False)')
    assert ran.stdout == "0%\n50%\n100%\n"
    assert ran.stderr == "to stderr\n"


def test_quiet_run_is_logged_and_a_shown_one_is_not_told_twice(plain):
    call = "import logging; logging.basicConfig(level=logging.INFO); run(['raise-x'], '{}', verbose={})"
    shown = plain(call.format("shown", True))
    assert shown.stdout.count("job 'raise-x' failed: ValueError") == 2
    assert shown.stderr == ""
    quiet = plain(call.format("quiet", False))
    assert quiet.stdout == ""
    assert quiet.stderr.count("job 'raise-x' failed: ValueError") == 2


def test_failures_do_not_flood(plain):
    begun = time.monotonic()
    ran = plain("""
        # Now and then one completes: a node that fails everything would pause.
        run([f"{'quick' if n % 6 == 0 else 'raise'}-{n}" for n in range(240)], max_attempts=1)
    """)
    one_by_one = len(re.findall(r"^job 'raise-\d+' failed", ran.stdout, re.MULTILINE))
    held = [int(number) for number in re.findall(r"^and (\d+) more failed attempts?$", ran.stdout, re.MULTILINE)]
    assert one_by_one + sum(held) == 200
    assert 20 <= one_by_one <= 20 + (time.monotonic() - begun)


def test_nobody_reads_on(command, sql):
    """`script | head -1`"""
    arguments, surroundings = command("""
        run([f"print-{n}" for n in range(100)])
        print("done")
    """)
    process = subprocess.Popen(arguments, **surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Connecting")
    process.stdout.close()
    assert process.stderr.read() == "workerbee: nobody reads stdout any more; the run goes on without it\n"
    process.stderr.close()
    assert process.wait() == 0
    assert sql("SELECT DISTINCT state FROM wb__display") == [("COMPLETE",)]


@pytest.mark.parametrize("target", ["&-", "/dev/full"])
@pytest.mark.parametrize("processes", [None, 2])
def test_stdout_that_cannot_be_written(command, sql, target, processes):
    arguments, surroundings = command(f'run(["wait-1"], processes={processes}); os._exit(7)')
    (surroundings["cwd"] / "go").touch()
    line = ["sh", "-c", f'exec "$@" >{target}', "sh", *arguments]
    ran = subprocess.run(line, **surroundings, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (7, "")
    assert sql("SELECT state FROM wb__display") == [("COMPLETE",)]


def test_characters_that_stdout_lacks(plain):
    ran = plain('job = lambda *_: print("é 漢"); run(["x"])', PYTHONIOENCODING="ascii")
    assert "\\xe9 \\u6f22\n" in ran.stdout


def test_jobs_print_fast(terminal):
    begun = time.monotonic()
    run = terminal("""
        def job(job_id, data):
            for n in range(25_000):
                print(f"{job_id} {n}")
        run([f"job{n}" for n in range(4)])
    """)
    run.emulated = False  # the emulator is the slow one here
    run.everything()
    printed = Counter(re.findall(rb"(job\d \d+)\r\n", run.raw))
    assert printed == Counter({f"job{job} {n}".encode(): 1 for job in range(4) for n in range(25_000)})
    # As many bars as there was time for, not one per line.
    assert run.raw.count(b"\x1b[J") < 10 * (time.monotonic() - begun) + 10


# Where a real run would be slow, or hard to bring about.


def summary(**fields):
    numbers = dict.fromkeys(JobsetSummary.__dataclass_fields__, 0)
    return JobsetSummary(**{**numbers, "jobset_id": "display", **fields})


def test_words_of_failures_say_nothing_twice():
    groups = [
        FailureGroup(Kind.LOST, "lost", "its node on b was silent for 31 s", 12, "a"),
        FailureGroup(Kind.CRASH, "SIGKILL", "its bee died: SIGKILL, sent by nobody here", 2, "b\n"),
        FailureGroup(Kind.ERROR, "KeyError", "", 1, "c" * 300),
    ]
    lines = ended(summary(total=3, complete=3), groups, 2)
    assert lines[:4] == [
        "Failed attempts by cause:",
        "      12 x lost: its node on b was silent for 31 s, e.g. job 'a'",
        "       2 x crash: SIGKILL, sent by nobody here, e.g. job 'b\\n'",
        "  and other causes",
    ]
    assert max(map(len, ended(summary(), groups, 3))) < 150
    assert len(ended(summary(total=1, complete=1), [], 10)) == 1
    lost = Event(None, "x", Kind.LOST, "lost", "its node on b was silent for 31 s", 1, 10, State.PENDING)
    assert told(lost) == "job 'x' was lost: its node on b was silent for 31 s (1 of 10), pending again"


def test_progress_is_told_at_most_every_few_seconds(monkeypatch, capsys):
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    for module in ("display", "progress"):
        monkeypatch.setattr(f"workerbee.{module}.time", clock)
    board, lines = Board(2), Lines()
    header = board.header
    header.total = header.pending = 100_000
    lines.watch(board)
    told_at = []
    for now in range(1000, 1000 + 4 * 3600):  # `clock` reads it
        header.counted, header.pending = now, header.pending - 5
        assert 0 <= lines.refresh() <= 60
        if capsys.readouterr().out:
            told_at.append(now)
    pauses = [after - before for before, after in itertools.pairwise(told_at)]
    assert (told_at[0], min(pauses), max(pauses), pauses[-1]) == (1005, 5, 60, 60)
    lines.refresh()
    board.close()


def test_rate_and_time_left():
    board = Board(1)
    progress, header = Progress(board), board.header
    assert (progress.status(), progress.left()) == ("starting", "")

    def count(at, settled, running=1):
        header.counted, header.total, header.claimed = at, 1000, running
        header.pending = 1000 - settled - running
        return round(progress.rate(), 3)

    assert count(100.0, 400) == 0  # a run that goes on: what was done before says nothing of the pace
    assert progress.left() == ""
    assert count(110.0, 410) == 1.0
    assert progress.left() == "about 9:50 min left"
    for second in range(1, 31):
        rate = count(110.0 + second, 410 + 10 * second)
    assert rate == 10.0  # of the last 20 s only
    # Then each job takes a minute: no zero between two of them, and no burst when one ends.
    rates = [count(140.0 + second, 710 + second // 60) for second in range(3600)]
    assert min(rates[1200:]) > 0.8 / 60
    assert max(rates[1200:]) < 1.2 / 60
    assert count(4000.0, 999) > 0
    assert progress.left() == ""  # the last job takes as long as it takes
    assert (progress.percent, progress.share) == ("99 %", 0.999)
    board.close()


def test_longest_jobs_fit(monkeypatch):
    monkeypatch.setattr("workerbee.progress.time", SimpleNamespace(monotonic=lambda: 10_000.0))
    board = Board(5)
    progress = Progress(board)
    assert progress.longest(79) == ""
    for index, slot in enumerate(board.slots):
        slot.move(Phase.ALIVE)
        slot.hand.hold(Claim(1, 1, (Job(1, f"/vol/{index}\t/" + "e" * 100, None),)), 0.0)
        slot.hand.pos, slot.started = 1, 10_000 - 60.0**index
    assert progress.longest(79).count("/vol/") == 2
    for width in (60, 79, 120, 200, 400):
        line = progress.longest(width)
        assert 0.6 * width < len(line) <= width or width == 400
        assert line.startswith("longest: '/vol/4")
    board.close()


def test_words_for_numbers():
    assert [duration(s) for s in (0, 59.4, 60, 3599.7, 7385)] == ["0 s", "59 s", "1:00 min", "1:00:00 h", "2:03:05 h"]
    assert [pace(r) for r in (0, 1234.5, 9.96, 1, 0.5, 0.001)] == [
        "0 jobs/s",
        "1234 jobs/s",
        "10.0 jobs/s",
        "1.0 jobs/s",
        "30 jobs/min",
        "3.6 jobs/h",
    ]


def test_printable():
    assert printable("a\x1b[31m\n\u202e é 漢\ud800") == "a\\x1b[31m\\n\\u202e é 漢\\ud800"
    assert printable("x" * 500) == "x" * 500
    assert printable("x" * 501) == "x" * 499 + "…"
    assert len(printable("\x00" * 300, 300)) == 300
    assert shortened("/vol/atlas/lenna.png", 11) == "/vol/…a.png"
    assert shortened("\x1b" * 5, 20) == "\\x1b" * 5


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain é", "plain é"),
        ("tab\tstop", "tab\tstop"),
        ("\x1b[1;31mred", "\x1b[1;31mred\x1b[m"),
        ("a\x1b[2Jb\x1b[?25lc\x1b]0;title\x07d\x1b]8;;x\x1b\\e", "abcde\x1b[m"),
        ("bell\x07 \x9b2J \x1b", "bell\\x07 \\x9b2J \\x1b"),
        ("10%\r20%\r", "20%"),
        ("dos\r", "dos"),
    ],
)
def test_harmless(line, shown):
    assert harmless(line) == shown


def through(words, lines=None):
    """Pass `words` through an Output, as the supervisor does, and close it."""
    lines = [] if lines is None else lines
    reader, writer = Pipe(duplex=False)
    output = Output(reader, lines.append)
    for start in range(0, len(words), PIECE):
        os.write(writer.fileno(), words[start : start + PIECE])
        output.pass_on()
    output.pass_on()  # nothing there: it must not wait
    writer.close()
    output.close()
    return lines


def test_output_in_pieces():
    assert through(b"one\n\n\xff bytes\r\nno end") == ["one", "", "\\xff bytes\r", "no end"]
    assert through(b"a\x0bb\x85\xe2\x80\xa8c") == ["a\x0bb\\x85\u2028c"]  # none of these ends a line
    # Too long to be held: cut, but not within a character.
    endless = "x" + "漢" * LONGEST_LINE
    lines = through((endless + "\nnext\n").encode())
    assert len(lines) > 2
    assert "".join(lines[:-1]) == endless
    assert lines[-1] == "next"


def test_output_of_a_dead_bee_whose_child_writes_for_ever():
    reader, writer = Pipe(duplex=False)
    lines = []
    output = Output(reader, lines.append)
    with subprocess.Popen(["yes"], stdout=writer.fileno()) as endless:
        writer.close()
        try:
            wait_until(lambda: select.select([output.fd], [], [], 0)[0])
            output.close()
        finally:
            endless.kill()
    assert set(lines) <= {"y"}


@pytest.mark.parametrize("pipe_buf", [select.PIPE_BUF, 512])
def test_events_fit_into_a_pipe_with_their_words(monkeypatch, pipe_buf):
    monkeypatch.setattr("workerbee.events.select", SimpleNamespace(PIPE_BUF=pipe_buf))
    reader, writer = Pipe(duplex=False)
    receiver, sender = Receiver(reader), Sender(writer)
    failure = Failure(Kind.ERROR, "🐝" * 150, '"\\' * 500)
    sender.send(Event.of(3, Charge("🐝" * 300, failure, 1, 1, 3, State.PENDING)))
    sender.send(Event())
    first, second = receiver.receive()
    assert (first.slot, first.kind, first.count, first.limit, first.state) == (3, Kind.ERROR, 1, 3, State.PENDING)
    assert first.job_id.startswith("🐝🐝") and first.type and first.message
    assert second == Event()
    receiver.close()
    writer.close()


def test_events_are_dropped_rather_than_waited_for():
    reader, writer = Pipe(duplex=False)
    os.set_blocking(writer.fileno(), False)
    for lines in (1000, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer.fileno(), b"{}\n" * lines)
    Sender(writer).send(Event(1, "x", Kind.ERROR))
    receiver = Receiver(reader)
    assert all(event.kind is None for event in receiver.receive())
    receiver.close()
    Sender(writer).send(Event())  # nobody is there any more
    writer.close()
