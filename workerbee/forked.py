"""A forked process, as multiprocessing has it but for one thing: where no process is to be had, no pipe stays open."""

from __future__ import annotations

import multiprocessing.context
import os
from multiprocessing import popen_fork, util
from typing import Any


class _Popen(popen_fork.Popen):
    def _launch(self, process_obj: Any) -> None:
        ends: list[int] = []
        try:
            for _ in range(2):
                ends += os.pipe()
            self.pid = os.fork()
        except OSError:
            _close(*ends)
            raise
        self.sentinel, childs_writer, childs_reader, writer = ends
        if self.pid == 0:
            try:
                _close(self.sentinel, writer)
                process_obj._bootstrap(parent_sentinel=childs_reader)
            finally:
                os._exit(1)
        _close(childs_writer, childs_reader)
        self.finalizer = util.Finalize(self, _close, (self.sentinel, writer))


class Forked(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> popen_fork.Popen:  # noqa: N802 - multiprocessing's name for it
        return _Popen(process_obj)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
