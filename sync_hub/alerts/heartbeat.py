"""Calls an address while the hub is not failing, so that somebody outside notices when the calls stop."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from sync_hub.settings import Heartbeat as HeartbeatSettings

LOG = logging.getLogger(__name__)

TIMEOUT_SECONDS = 4.0
LOOK_SECONDS = 1.0
"""How often it looks whether a call is due, or one that was left out can be made up for."""
AGAIN_SECONDS = 10.0
"""The longest wait after a call that failed."""


class Heartbeat:
    """The dead man's switch. One a supervisor, one thread at a time."""

    def __init__(
        self, settings: HeartbeatSettings, status: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._status = status
        self._clock = clock
        self._due_at = clock()
        self._failed = False
        self._opener = urllib.request.build_opener(_NoRedirects)

    def beat(self) -> None:
        """Call if it is time and the hub is not failing; blocks for a few seconds when nobody answers."""
        if self._clock() < self._due_at or self._status() == "failing":
            return
        error = self._call()
        every = self._settings.every
        self._due_at = self._clock() + (min(every, AGAIN_SECONDS) if error else every)
        if bool(error) != self._failed:
            self._failed = bool(error)
            host = urlsplit(self._settings.url).hostname
            said = f"does not reach {host}: {error}" if error else f"reaches {host} again"
            LOG.log(logging.WARNING if error else logging.INFO, "heartbeat %s", said, extra={"action": "heartbeat"})

    def _call(self) -> str:
        """Empty when it was answered with success, else why not; never with the address, which is a secret."""
        try:
            with self._opener.open(self._settings.url, timeout=TIMEOUT_SECONDS) as answer:
                answer.read(1)
        except HTTPError as error:
            return f"it answered {error.code}"
        except URLError as error:
            return type(error.reason).__name__ if isinstance(error.reason, Exception) else "no connection"
        except (OSError, HTTPException, ValueError) as error:
            return type(error).__name__
        return ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An answer that leads elsewhere is no answer: it could lead into the network that the hub runs in."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Do not follow."""
