"""A first look at workerbee: compress the source files of Python's standard library, one job per file.

    python examples/quickstart.py              # every CPU works; Ctrl-C stops it in good order
    python examples/quickstart.py --crash 3    # three of the jobs bring down the process that runs them
    python examples/quickstart.py --jobset quickstart_20160825_120000    # go on with a run that was stopped

It needs nothing but `pip install 'workerbee[embedded]'`: no database is named, so an embedded PostgreSQL is started.
What it writes goes into a new folder for temporary files, whose name it prints.
"""

import argparse
import ctypes
import lzma
import os
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import psycopg2

from workerbee import postgres_jobset
from workerbee.address import resolve

LIBRARY = Path(sysconfig.get_path("stdlib"))
NOT_OURS = {"site-packages", "test", "tests"}


def compress(job_id, job_data):
    """One job: compress the file that `job_id` names, into the one that its data names.

    This runs in another process than the rest of the script, and must not mind being run twice for the same job:
    if the power fails at the wrong moment, nobody can know that it was done. So the result appears in one step.
    """
    if job_data.get("crash"):
        ctypes.string_at(0)  # reads where no memory is: the process dies of SIGSEGV, and no `except` can help it

    original = (LIBRARY / job_id).read_bytes()
    compressed = lzma.compress(original)
    if lzma.decompress(compressed) != original:
        raise ValueError("the compressed file does not give the original back")  # the job would be tried again

    target = Path(job_data["target"])
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    unfinished.write_bytes(compressed)
    unfinished.replace(target)


def make_jobs(crashes):
    """The ids of all jobs, and the data of each: any dict that JSON can hold."""
    sources = sorted(path.relative_to(LIBRARY) for path in LIBRARY.rglob("*.py"))
    sources = [source for source in sources if not NOT_OURS.intersection(source.parts)]
    output = Path(tempfile.mkdtemp(prefix="workerbee-quickstart-"))
    print(f"{len(sources)} files of {LIBRARY} are compressed into {output}")

    job_data = {}
    for number, source in enumerate(sources):
        job_data[str(source)] = {"target": str(output / ("-".join(source.parts) + ".xz"))}
        if number < crashes:
            job_data[str(source)]["crash"] = True
    return list(job_data), job_data


def look_at_failures(jobset_id):
    """Ask the database what went wrong: it keeps the state of every job, and every failed attempt."""
    connection = psycopg2.connect(**resolve().parameters)
    with connection.cursor() as cursor:
        # A view with a row per job.
        cursor.execute(f"SELECT state, count(*), sum(seconds) FROM wb_jobs__{jobset_id} GROUP BY state ORDER BY state")
        for state, count, seconds in cursor:
            print(f"{count:6} jobs {state}" + (f", {seconds:.1f} s of work" if seconds else ""))

        # A table with a row per failed attempt, of all jobsets; more of its columns: stack, host, pid, failed_at.
        cursor.execute(
            "SELECT job_id, attempt, kind, type FROM wb_failures WHERE jobset_id = %s ORDER BY failure", [jobset_id]
        )
        for job_id, attempt, kind, reason in cursor:
            print(f"{kind} of {job_id}, attempt {attempt}: {reason}")
    connection.close()


def main():
    parser = argparse.ArgumentParser(
        description="Compress Python's standard library, one job per file.", allow_abbrev=False
    )
    parser.add_argument("--crash", type=int, default=0, metavar="N", help="let N of the jobs crash, again and again")
    parser.add_argument("--jobset", metavar="ID", help="go on with this jobset, in place of making a new one")
    arguments = parser.parse_args()

    if arguments.jobset:
        jobset_id, job_ids, job_data = arguments.jobset, None, None  # the database knows them
    else:
        jobset_id = time.strftime("quickstart_%Y%m%d_%H%M%S")
        job_ids, job_data = make_jobs(arguments.crash)

    # This line is all that workerbee asks for. It returns when every job is COMPLETE or FAILED.
    try:
        summary = postgres_jobset(jobset_id, compress, job_ids, job_data, processes="auto")
    except KeyboardInterrupt:
        sys.exit(f"Go on with: python {sys.argv[0]} --jobset {jobset_id}")

    print("\nWhat the database says:")
    look_at_failures(jobset_id)
    if summary.ok:
        print("All is well.")
    else:
        print(f"FAILED: {summary.failed}, each after three attempts. The other jobs never noticed.")


if __name__ == "__main__":
    main()
