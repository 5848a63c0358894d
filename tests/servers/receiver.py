"""A real HTTP server that takes messages and calls, and may be told to refuse, to hang, or be gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from connectors.local_postgres import free_port


class Receiver:
    """One server on a port of its own. `status` is what it answers; `hold` has it wait before."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200
        self.location = ""
        self.hold = threading.Event()
        self.hold.set()
        self.asked: list[str] = []
        self.taken: list[dict[str, Any]] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def titles(self) -> list[str]:
        """What was taken, by title, in order."""
        return [one["title"] for one in self.taken]

    def address(self, scheme: str = "json", path: str = "/", login: str = "") -> str:
        """Its address, as apprise or a browser writes it."""
        return f"{scheme}://{login}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(lambda: receiver.taken.append(body))

            def do_GET(self) -> None:
                self._answer(lambda: None)

            def _answer(self, take: Callable[[], None]) -> None:
                receiver.asked.append(self.path)
                receiver.hold.wait(30)
                if receiver.status == 200:
                    take()
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver, until the block ends."""
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        receiver.stop()


def wait_until(condition: Callable[[], Any], what: str, timeout_seconds: float = 10) -> Any:
    """Poll a condition until it gives something true, and return that."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_seconds} s: {what}")
