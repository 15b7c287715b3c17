"""The installed command, and a module of jobs for it."""

from __future__ import annotations

import sys
from pathlib import Path

WORKERBEE = str(Path(sys.executable).with_name("workerbee"))
JOBS = """
import ctypes, os, time
from pathlib import Path

STATE = [7]

def work(job_id, data):
    kind = job_id.partition("-")[0]
    print(f"{job_id} has {data} and {STATE}")
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "raise":
        raise ValueError("no way")
    while kind == "wait" and not Path("go").exists():
        time.sleep(0.01)

class Holder:
    @staticmethod
    def work(job_id, data):
        print(f"held {job_id}")

if __name__ == "__main__":
    print("the main block runs")
"""
