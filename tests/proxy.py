"""A TCP proxy between a script and its server, which can fail in all the ways that a network can."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Proxy:
    """Listens on `port` of the loopback interface, and passes everything on to `host`:`to`.

    While it is `silent` it takes what it is told, and passes nothing on: the connections of that time stay so, also
    later. `swallow(words)` has it pass the next message with `words` on, and break that connection when the server
    has answered, without the answer; `lose(words)` breaks it before the server has heard. Each counts in `broken`.
    With `deaf`, a connection that the client leaves stays open to the server.
    """

    def __init__(self, host: str, to: int) -> None:
        self._to = host, to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.silent = False
        self.deaf = False
        self.broken = 0
        self.opened_in_silence = 0
        self._swallow = self._lose = b""
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def swallow(self, words: bytes) -> None:
        self._swallow = words

    def lose(self, words: bytes) -> None:
        self._lose = words

    def cut(self) -> None:
        """Break every connection with a client."""
        with self._lock:
            for link in self._clients:
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._to) as server:
            with self._lock:
                self._clients.append(client)
                self.opened_in_silence += self.silent
            self._pass_on(client, server)
            if self.deaf:
                client.close()
                while server.recv(65536):
                    pass

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        silent = False
        while True:
            ready, _, _ = select.select([client, server], [], [])
            silent = silent or self.silent
            for source, sink in ((server, client), (client, server)):
                if source in ready:
                    message = source.recv(65536)
                    if not message:
                        return
                    if silent:
                        continue
                    if source is client and self._breaks("_lose", message):
                        return
                    swallowed = source is client and self._breaks("_swallow", message)
                    sink.sendall(message)
                    if swallowed:
                        server.recv(65536)
                        return

    def _breaks(self, which: str, message: bytes) -> bool:
        with self._lock:
            words = getattr(self, which)
            if not words or words not in message:
                return False
            setattr(self, which, b"")
            self.broken += 1
            return True
