"""Log lines: one a record, on standard error, as text at a terminal and as JSON elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

LEVEL_VARIABLE = "SYNC_HUB_LOG_LEVEL"
FORMAT_VARIABLE = "SYNC_HUB_LOG_FORMAT"

_NO_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""What every record carries, and what uvicorn adds for terminals."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what was given as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Never holds a line break: JSON escapes them."""
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        fields["message"] = record.getMessage()
        fields |= {name: value for name, value in vars(record).items() if name not in _NO_FIELDS}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """For people: time, level, message; line breaks in messages are escaped, so that no message can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback of an unknown error below it."""
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{_time(record)} {record.levelname.lower():7} {record.process} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure() -> None:
    """Set up logging of this process by SYNC_HUB_LOG_LEVEL (info) and SYNC_HUB_LOG_FORMAT (text or json)."""
    kind = os.environ.get(FORMAT_VARIABLE) or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if kind == "text" else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(os.environ.get(LEVEL_VARIABLE, "INFO").upper())
    for noisy in ("apscheduler", "uvicorn.access", "sqlalchemy"):
        logging.getLogger(noisy).setLevel("WARNING")
    logging.getLogger("apscheduler.scheduler").setLevel("ERROR")  # a look at health that lasts is not worth a line
    logging.getLogger("kafka").setLevel("CRITICAL")  # it logs every attempt to reconnect; the hub says it once


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
