"""A relay between a node and the database that can stop forwarding: a network that is gone without a word."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path


class Relay:
    """Listens in `folder` as PostgreSQL would, and passes everything on to the server in the folder `server`."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self._server = server / ".s.PGSQL.5432"
        self._open = threading.Event()
        self._open.set()
        self._losing = 0
        self._losing_until = 0.0
        folder.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        """Pass on again, beginning with what has come in meanwhile."""
        self._open.set()

    def lose(self, answers: int) -> None:
        """Swallow the next so many answers within a second, and cut each connection that one was to go through."""
        self._losing = answers
        self._losing_until = time.monotonic() + 1

    def close(self) -> None:
        self.thaw()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with client, server, contextlib.suppress(OSError):
            self._open.wait()
            server.connect(str(self._server))
            back = threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True)
            back.start()
            self._pass_on(client, server, False)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                self._open.wait()
                if answers and self._losing > 0 and time.monotonic() < self._losing_until:
                    self._losing -= 1
                    break
                target.sendall(piece)
        # Either side's end is both sides' end.
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
