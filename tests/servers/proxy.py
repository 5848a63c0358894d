"""A TCP proxy that treats connections badly: cuts, delays, holds answers back, lets nothing through."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal

Mode = Literal["pass", "hold", "black_hole", "refuse"]
"""`hold`: what clients send goes through, no answer comes back. `black_hole`: nothing goes either way. What waits goes
on with `pass`, as after a network that came back. `refuse`: connections end at once."""


class Proxy:
    """Passes every connection to `127.0.0.1:target`; `port` is where it listens. Change `mode` at any time.

    Once a request for which `cut_after` says so has gone through, no answer comes on any connection.
    """

    def __init__(self, target: int = 0, *, cut_after: Callable[[bytes], bool] = lambda _: False) -> None:
        self.target = target
        self.was_cut = threading.Event()
        self._cut_after = cut_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._changed = threading.Condition()
        self._mode: Mode = "pass"
        self._delay_seconds = 0.0
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode = "pass", *, delay_seconds: float = 0.0) -> None:
        """How everything is treated from now on, open connections too."""
        with self._changed:
            self._mode, self._delay_seconds = mode, delay_seconds
            self._changed.notify_all()
        if mode == "refuse":
            self.cut()

    def cut(self) -> None:
        """End every connection now; new ones are welcome."""
        with self._changed:
            sockets, self._open = self._open, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.set("refuse")

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._mode == "refuse":
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._open |= {client, server}
        answers = threading.Thread(target=self._answers, args=(server, client), daemon=True)
        answers.start()
        self._requests(client, server)
        answers.join()
        with self._changed:
            self._open -= {client, server}
        client.close()
        server.close()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._wait({"black_hole"})
                if self._cut_after(data):
                    self.was_cut.set()
                server.sendall(data)
                if self.was_cut.is_set():
                    break
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self._wait({"black_hole", "hold"})
                if not self.was_cut.is_set():
                    client.sendall(data)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _wait(self, modes: set[Mode]) -> None:
        """Wait while nothing may pass; then for as long as the line takes."""
        with self._changed:
            self._changed.wait_for(lambda: self._mode not in modes)
        self._closed.wait(self._delay_seconds)
