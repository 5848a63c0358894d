"""The web application served for real, on a port of its own, for tests that ask it or look at it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from sync_hub.web.app import create
from tests.hub_state import HubState


@contextmanager
def served(hub: HubState, *, port: int = 0, clock: Callable[[], float] | None = None) -> Iterator[str]:
    """Serve a hub's console until the block ends; gives its address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    app = create(hub.settings, hub.state, clock=clock or hub.clock)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    wait_until(lambda: httpx.get(f"{address}/health/live").status_code == 200)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 15) -> None:
    """Wait for a condition; a refused connection counts as not yet."""
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")
