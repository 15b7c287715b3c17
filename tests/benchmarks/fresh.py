"""Functions called in an interpreter of their own, as a user's script would: nothing of the run is inherited.

`python -m tests.benchmarks.fresh MODULE:FUNCTION JSON` calls it with these keywords, and prints what it returns.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


class Fresh:
    """A call of a module's `function` that goes on in another process, killed if it is left before its end.

    Keywords and result are what JSON can hold.
    """

    def __init__(self, function: Callable[..., Any], **keywords: Any) -> None:
        spec = sys.modules[function.__module__].__spec__
        assert spec  # whose name is the module's own, also where it runs as __main__
        self._name = f"{spec.name}:{function.__qualname__}"
        command = [sys.executable, "-m", "tests.benchmarks.fresh", self._name, json.dumps(keywords)]
        # The server's address is said in full: what the caller's environment has for libpq is not meant for us.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        if self.alive():
            # With all below it: a keeper that loses supervisor and server at once waits ten minutes for the server.
            top = psutil.Process(self.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def alive(self) -> bool:
        return self._process.poll() is None

    def result(self) -> Any:
        """What the function returned, once it has; RuntimeError when it did not."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"{self._name} ended with {self._process.returncode}")
        return json.loads(output.splitlines()[-1])


def fresh(function: Callable[..., Any], **keywords: Any) -> Any:
    """What `function(**keywords)` returns in a process of its own."""
    with Fresh(function, **keywords) as call:
        return call.result()


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))))
