"""The tree of errors: each class says what the hub does about it, each instance what a person can do."""

from __future__ import annotations

from typing import NamedTuple


class SyncHubError(Exception):
    """Base of every error the hub raises on purpose.

    `code` is stable and documented, `message` is one line that says what and where, `hint` says what to do,
    `command` is a command to copy when there is one. `exit_code` is what the CLI exits with.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, *, hint: str = "", command: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.hint = hint
        self.command = command

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        if self.hint:
            text += f" — {self.hint}"
        if self.command:
            text += f" (run: {self.command})"
        return text


class ConfigError(SyncHubError):
    """The configuration or a mapping is wrong: nothing was started or changed. `where` is `file:line:column`."""

    exit_code = 2

    def __init__(
        self, code: str, message: str, *, where: str = "", field: str = "", hint: str = "", command: str = ""
    ) -> None:
        place = ", ".join(part for part in (where, field) if part)
        super().__init__(code, f"{place}: {message}" if place else message, hint=hint, command=command)
        self.where = where
        self.field = field


class Unavailable(SyncHubError):
    """Something outside does not answer or asks to try again: retried for ever, with backoff and jitter."""

    exit_code = 3


class PublishingBroken(Unavailable):
    """A delivery report failed, so the topic may have a hole.

    The producer has been purged. Nothing may be sent again before the source's epoch has risen, because re-sent
    events would look older than what landed after them (`guarantees.md`: publishing).
    """


class OffsetsMoved(SyncHubError):
    """Another worker has written for a partition: the target's offsets moved on. Load them again."""


class Conflict(NamedTuple):
    """What a target says about a unique or foreign key that is violated: rows of this table with these values.

    `table` has its schema where the target has schemas; `values` are the target's own text, one for each column.
    """

    table: str
    columns: tuple[str, ...]
    values: tuple[str, ...]


class Rejected(SyncHubError):
    """A record that can never be applied as it is.

    `sqlstate` is the target's own code when it has one. `conflict` says which rows of a batch it is about, where the
    target told; it holds values of rows, and is in no message.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        sqlstate: str = "",
        hint: str = "",
        command: str = "",
        conflict: Conflict | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, command=command)
        self.sqlstate = sqlstate
        self.conflict = conflict


class Fatal(SyncHubError):
    """Going on could lose or corrupt something: the worker stops and says what a person has to do."""
