"""The examples, run as a reader would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def home():
    """A home of the embedded server's own. Not below tmp_path, which is closed to the account root's server has."""
    home = Path(tempfile.mkdtemp(prefix="workerbee-examples-"))
    home.chmod(0o755)
    yield home
    wait_until(lambda: not (home / "pg18" / "data" / "postmaster.pid").exists(), "the server's end")
    shutil.rmtree(home, ignore_errors=True)


def test_quickstart(home, tmp_path):
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PYTEST"))}
    environ = {**environ, "WORKERBEE_HOME": str(home), "TMPDIR": str(tmp_path)}

    def run(*arguments):
        command = [sys.executable, str(EXAMPLES / "quickstart.py"), *arguments]
        return subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)

    first = run("--crash", "2")
    assert first.stderr == ""
    jobs, library, output = re.match(r"(\d+) files of (.*) are compressed into (.*)\n", first.stdout).groups()
    assert Path(output).parent == tmp_path
    assert Path(library) == Path(os.__file__).parent
    made = list(Path(output).iterdir())
    assert len(made) == int(jobs) - 2 > 100
    assert {path.suffix for path in made} == {".xz"}
    assert "Connecting to the embedded PostgreSQL in" in first.stdout
    assert len(re.findall(r"^bee \d+ died of SIGSEGV in job '[\w./]+' \(\d of 3\), ", first.stdout, re.MULTILINE)) == 6
    assert "       6 x crash: SIGSEGV, e.g. job '" in first.stdout
    database = first.stdout.split("What the database says:\n")[1]
    assert re.match(rf" *{len(made)} jobs COMPLETE, [\d.]+ s of work\n     2 jobs FAILED\n", database)
    assert Counter(re.findall(r"^crash of .*, attempt (\d): SIGSEGV$", database, re.MULTILINE)) == dict.fromkeys(
        "123", 2
    )
    assert database.endswith("FAILED: 2, each after three attempts. The other jobs never noticed.\n")

    (jobset,) = set(re.findall(r"quickstart_\d+_\d+", first.stdout))
    again = run("--jobset", jobset)
    assert f"jobset '{jobset}' exists already, with {jobs} jobs" in again.stdout
    assert "here 0 completed" in again.stdout
    assert again.stderr == ""
    assert list(tmp_path.iterdir()) == [Path(output)]


# What the first README shows, but for the order of the jobs and Python 2's u''.
SEED_OUTPUT = """\
Creating table for jobset 'texturemap_2016_08_25'...
Adding 3 jobs to jobset 'texturemap_2016_08_25'...
job_data provided for 1 jobs
jobset 'texturemap_2016_08_25' set up.
--------------------------------------------------------------------------------
0: claimed 'id2'

 - processing job id2 with data: {}


...done.
1: claimed 'id3'

 - processing job id3 with data: {}


...done.
2: claimed 'id1'

 - processing job id1 with data: {'some': 2, 'data': 'here'}


...done.
All jobs are exhausted, terminating.
"""


def test_seed(script, address):
    source = (EXAMPLES / "seed.py").read_text()
    # Its words, with the test server in the place of its own.
    for name, value in {"host": "localhost", "port": "5432", "user": "postgres", "database": "postgres"}.items():
        assert source.count(f"{name}={value!r}") == 1
        source = source.replace(f"{name}={value!r}", f"{name}={address[name]!r}")
    process = script(source, **({"PGPASS": address["password"]} if "password" in address else {}))
    said, _ = process.communicate()
    assert process.returncode == 0
    connecting, _, rest = said.partition("\n")
    assert connecting.startswith("Connecting to database ")
    assert connecting.endswith(f" on {address['user']}@{address['host']}:{address['port']}...")
    rest = rest.removeprefix(" - No password is set. (If needed, set the environment variable PGPASS.)\n")
    # The order is random: give the jobs the seed's.
    order = re.findall(r"^\d: claimed '(id\d)'$", rest, re.MULTILINE)
    pieces = re.split(r"^(?=\d: claimed )|^(?=All jobs)", rest, flags=re.MULTILINE)
    jobs = dict(zip(order, pieces[1:-1], strict=True))
    jobs = [re.sub(r"^\d", str(number), jobs[name]) for number, name in enumerate(["id2", "id3", "id1"])]
    assert "".join([pieces[0], *jobs, pieces[-1]]) == SEED_OUTPUT
