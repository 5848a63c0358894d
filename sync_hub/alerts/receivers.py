"""Receivers of messages, through apprise. Their addresses hold secrets: only `name` may be shown, stored or logged."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from sync_hub.errors import ConfigError
from sync_hub.state_alerts import Text

HOSTS_SHOWN = frozenset(
    {"json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos", "gotify", "gotifys", "mmost", "mmosts"}
)
"""Schemes in whose addresses a host stands where one is expected; elsewhere it may be a token."""

_ANSWER = re.compile(r"error=(\d{3})\b")
_KINDS = {"failing": "failure", "degraded": "warning"}


def names(addresses: Sequence[str]) -> list[str]:
    """What may be shown of addresses, each with another name: `jsons://hooks.example.com`, `tgram://…`."""
    shown: list[str] = []
    for address in addresses:
        name = _shown(address)
        again = sum(one == name or one.startswith(f"{name}#") for one in shown)
        shown.append(f"{name}#{again + 1}" if again else name)
    return shown


class Receiver:
    """One receiver. Raises `ConfigError` when apprise knows none of that kind, or the address lacks something."""

    def __init__(self, name: str, address: str) -> None:
        import apprise

        self.name = name
        _silence()
        asset = apprise.AppriseAsset(
            app_id="sync-hub", app_desc="sync-hub", app_url="", storage_mode="memory", http_redirects=False
        )
        self._service: Any = apprise.Apprise.instantiate(address, asset=asset)
        if self._service is None:
            raise ConfigError(
                "bad_receiver",
                f"alerts.to: apprise knows no receiver {name}, or its address is incomplete",
                hint="https://appriseit.com/services/ lists what there is, and how each address is written",
            )

    def send(self, text: Text) -> str:
        """Send one message; empty when it was taken, else why not. Blocks for some seconds when nobody answers."""
        kind = _KINDS.get(text.severity, "success")
        with _overheard() as said:
            try:
                taken = self._service.notify(title=text.title, body=text.body, notify_type=kind, body_format="text")
            except Exception as error:  # whatever goes wrong within a service, others and later messages are sent
                return f"apprise failed with {type(error).__name__}"
        return "" if taken else _reason(said)


def load(addresses: Sequence[str]) -> list[Receiver]:
    """All receivers. Raises `ConfigError` for the first one that cannot be."""
    return [Receiver(name, address) for name, address in zip(names(addresses), addresses, strict=True)]


def _shown(address: str) -> str:
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    try:
        parts = urlsplit(f"http://{rest}")
        doubtful = "@" in address.removeprefix(f"{scheme}://{parts.netloc}")  # a sign of the password ended the host
        host, port = parts.hostname, parts.port
    except ValueError:
        doubtful, host, port = True, None, None
    if scheme not in HOSTS_SHOWN or doubtful or not host:
        return f"{scheme}://…"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"


def _reason(said: Sequence[str]) -> str:
    """Why a message was not taken, without a word of apprise's own: its words may hold parts of the address."""
    answers = [match[1] for line in said if (match := _ANSWER.search(line))]
    if answers:
        return f"it answered {answers[-1]}"
    return "no connection" if any("onnection" in line for line in said) else "it did not take the message"


def _silence() -> None:
    """What apprise and what it sends through log goes to nobody but `_overheard`: addresses are among it."""
    for name in ("apprise", "urllib3", "requests_oauthlib", "oauthlib", "slixmpp", "paho"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    logging.getLogger("apprise").setLevel(logging.WARNING)


class _Ear(logging.Handler):
    """Keeps what one thread logs."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of this thread."""
        if record.thread == self._thread:
            self.said.append(record.getMessage())


@contextmanager
def _overheard() -> Iterator[list[str]]:
    ear, logger = _Ear(), logging.getLogger("apprise")
    logger.addHandler(ear)
    try:
        yield ear.said
    finally:
        logger.removeHandler(ear)
