"""What every PostgreSQL connector shares: how to connect, what an error means, how to quote a name."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from sync_hub.errors import ConfigError, Conflict, Fatal, Rejected, SyncHubError, Unavailable

SESSION: Final = (
    "-c TimeZone=UTC -c DateStyle=ISO,YMD -c IntervalStyle=iso_8601 -c bytea_output=hex"
    " -c extra_float_digits=1 -c lc_monetary=C -c client_min_messages=warning"
    " -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
)
"""Start-up options of every connection, whatever role and database say: they fix how the server prints values and that
it warns. A time-out that is made for applications would end the same batch again and again, for ever."""

_SINCE: Final = ((140000, "idle_session_timeout"), (170000, "transaction_timeout"))
"""Time-outs that only servers from some version on know: an older one would refuse them at the start."""

COPY_KIND: Final = "postgresql copy text"
"""The form of blocks that go from one PostgreSQL to another: COPY's text, printed under SESSION."""

CONNECT_TIMEOUT_SECONDS: Final = 10
_LINK: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

logging.getLogger("psycopg").setLevel(logging.ERROR)
"""The driver warns about connections that it closes itself; the hub reports what matters."""


def connect(
    dsn: SecretStr | str, *, application_name: str, autocommit: bool = True, replication: bool = False
) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect with the session settings that all values depend on. Raises what `classify` makes of a failure.

    What the DSN says about time-outs and keepalives wins over the defaults here; SESSION wins over its `options`.
    With `replication` the connection speaks the walsender's protocol for the DSN's database.
    """
    given = read_dsn(dsn)
    settings = (
        _LINK
        | given
        | {
            "application_name": application_name,
            "client_encoding": "UTF8",
            "options": f"{given.get('options', '')} {SESSION}".strip(),
        }
    )
    if replication:
        settings["replication"] = "database"
    try:
        connection = psycopg.connect(autocommit=True, **settings)
        _without_timeouts(connection)
        connection.autocommit = autocommit
    except psycopg.Error as error:
        refused = _REFUSED_OPTION.search(str(error)) if error.sqlstate is None else None
        if refused:
            option = refused[1] or refused[2]
            raise _bad_dsn(f"{application_name}: the PostgreSQL address has a bad value for {option}") from None
        raise classify(error, application_name) from error
    return connection


def _without_timeouts(connection: psycopg.Connection[Any]) -> None:
    """Take away what SESSION cannot, for this session; in one round trip."""
    known = [f"set {name} = 0" for version, name in _SINCE if connection.info.server_version >= version]
    try:
        connection.execute("; ".join(known) or "select")
    except psycopg.Error:
        connection.close()
        raise


def read_dsn(dsn: SecretStr | str) -> dict[str, Any]:
    """What an address says, by libpq's names. Raises `ConfigError` that repeats nothing of it.

    A sign in the password that was not written as %40 and the like would move a part of the password into the host,
    port or database, which every later message names: such an address is refused here.
    """
    text = dsn.get_secret_value() if isinstance(dsn, SecretStr) else dsn
    try:
        given = {name: value for name, value in conninfo_to_dict(text).items() if value is not None}
    except psycopg.Error:  # its message repeats parts of the address
        raise _bad_dsn("the PostgreSQL address cannot be read") from None
    path = _PATH.match(text)
    if "@" in str(given.get("host", "")) or (path and "@" in path[1]):
        raise _bad_dsn("user or password of the PostgreSQL address have a sign that must be escaped")
    if not all(port == "" or port.isdecimal() for port in str(given.get("port", "")).split(",")):
        raise _bad_dsn("the port of the PostgreSQL address is no number")
    return given


def _bad_dsn(message: str) -> ConfigError:
    return ConfigError(
        "bad_dsn",
        message,
        hint="write postgresql://user:password@host:port/database, signs in the password as %40 (@), %2F (/), %3A (:),"
        " %3F (?), %25 (%), and = in `options` as %3D; or host=… port=… dbname=… user=…",
    )


_PATH: Final = re.compile(r"postgres(?:ql)?://[^/]*/([^?]*)")
_REFUSED_OPTION: Final = re.compile(
    r"invalid integer value .* for connection option \"(\w+)|(?:bad value for |invalid )(\w+)(?: value)?:", re.DOTALL
)


def quote(identifier: str) -> str:
    """An identifier as SQL text, always in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def quote_table(schema: str, name: str) -> str:
    """A table's name as SQL text; without a schema the name alone."""
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


def literal(text: str) -> str:
    """A text as an SQL literal, for commands that take no parameters."""
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"


_Kind = type[Unavailable] | type[Rejected] | type[Fatal] | type[ConfigError]

_MEANINGS: Final[dict[str, tuple[_Kind, str, str]]] = {
    # SQLSTATE, or its first two characters for a whole class → class of error, code, hint
    "08": (Unavailable, "connection_failed", "is the server running and reachable?"),
    "0A": (Fatal, "not_supported", "the server does not support this"),
    "22": (Rejected, "invalid_value", "mend the row at the source, or the mapping"),
    "23": (Rejected, "constraint_violated", "mend the row at the source, or the mapping"),
    "23502": (Rejected, "not_null_violated", "give the column a value in the mapping, or let it be NULL"),
    "23503": (Rejected, "foreign_key_violated", "the row it refers to is not there"),
    "23505": (Rejected, "unique_violated", "another row has the same value"),
    "23514": (Rejected, "check_violated", "mend the row at the source, or the mapping"),
    "23P01": (Rejected, "exclusion_violated", "another row is in the way"),
    "25006": (Unavailable, "server_read_only", "the server is in recovery or read-only: connect to the primary"),
    "25": (Unavailable, "transaction_ended", "the server ended the transaction"),
    "28": (Unavailable, "access_denied", "check user, password and pg_hba.conf"),
    "3D": (Unavailable, "database_missing", "check the database's name in the address"),
    "3F": (Fatal, "schema_missing", "create the schema, or correct its name"),
    "40": (Unavailable, "transaction_conflict", "it is tried again"),
    "40001": (Unavailable, "serialization_failure", "it is tried again"),
    "40002": (Rejected, "constraint_violated", "mend the row at the source, or the mapping"),
    "40P01": (Unavailable, "deadlock", "it is tried again"),
    "42": (Fatal, "refused_by_server", "the table is not as expected: run the check"),
    "42501": (Fatal, "privilege_missing", "grant it; `sync-hub check` lists what is needed"),
    "42703": (Fatal, "column_missing", "the table was changed: run the check"),
    "42704": (Fatal, "object_missing", "the object was dropped: run the check"),
    "42710": (Unavailable, "object_exists", "another worker creates the same object"),
    "42804": (Rejected, "type_mismatch", "cast the value in the mapping"),
    "42P01": (Fatal, "table_missing", "create the table, or correct its name"),
    "42P07": (Unavailable, "object_exists", "another worker creates the same table"),
    "44": (Rejected, "check_violated", "the view's check option refuses the row"),
    "53": (Unavailable, "server_out_of_resources", "free memory or connections at the server"),
    "53100": (Unavailable, "server_disk_full", "free disk space at the server"),
    "53300": (Unavailable, "too_many_connections", "raise max_connections, or end idle sessions"),
    "54": (Rejected, "limit_exceeded", "the value is too large for the server"),
    "55": (Unavailable, "object_not_ready", "it is tried again"),
    "55006": (Unavailable, "object_in_use", "another session uses it"),
    "55P03": (Unavailable, "lock_timeout", "another session holds the lock"),
    "57": (Unavailable, "server_interrupted", "it is tried again"),
    "57014": (Unavailable, "statement_cancelled", "a time-out or a person ended the statement"),
    "57P01": (Unavailable, "server_shut_down", "is the server being restarted?"),
    "57P02": (Unavailable, "server_crashed", "the server restarts by itself"),
    "57P03": (Unavailable, "server_starting", "the server does not yet take connections"),
    "57P04": (Fatal, "database_dropped", "the database is gone"),
    "58": (Unavailable, "server_system_error", "look into the server's log"),
    "P0": (Rejected, "raised_by_trigger", "a trigger or function at the server refuses the row"),
    "XX001": (Fatal, "server_data_corrupted", "restore the server"),
    "XX002": (Fatal, "server_index_corrupted", "REINDEX at the server"),
}

_NOT_OF_ROWS: Final = ("3F", "42", "57", "XX001", "XX002")
"""Of what is `Fatal`, that which no single row is to blame for, also when it is met at one."""

_CONNECT_MESSAGES: Final = (
    # libpq gives no SQLSTATE when connecting fails: part of its English message → SQLSTATE
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("authentication failed", "28000"),
    ("no pg_hba.conf entry", "28000"),
    ("is not permitted to log in", "28000"),
    ("must be superuser or replication role", "42501"),
    ("permission denied", "42501"),
    ("the database system is", "57P03"),
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("connection slots are reserved", "53300"),
    ("number of requested standby connections exceeds", "53300"),
)


def classify(error: psycopg.Error, what: str, *, of_row: bool = False) -> SyncHubError:
    """What the hub does about an error of the driver or server; `what` says who met it: `source erp`.

    `of_row`: it was met while rows were written. Triggers raise what they like, so there an error that nobody knows is
    about a row; only one that is about the table, the rights or the server's files is not.
    The message is one line with names of constraints and columns, but without the row's values: it reaches logs.
    """
    state = error.sqlstate
    if state is None and isinstance(error, psycopg.DataError):
        state = "22000"
    if state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        state = _state_of_connecting(error)
    kind, code, hint = _meaning(state or "")
    unknown = of_row and kind is Fatal and state is not None and not state.startswith(_NOT_OF_ROWS)
    if unknown:
        kind, code, hint = Rejected, "row_refused", f"SQLSTATE {state}: look at the target's triggers, and into its log"
    text = f"{what}: {_one_line(error, state or '', detailed=not unknown)}"
    if kind is Rejected:
        return Rejected(code, text, sqlstate=state or "", hint=hint, conflict=_conflict(error))
    return kind(code, text, hint=hint)


def _conflict(error: psycopg.Error) -> Conflict | None:
    """Which rows a violated key is about: the detail ends so in every language, `(a, b)=(1, x)`.

    None where it is about another error, or where the values cannot be told apart.
    """
    diag = error.diag
    found = _KEY_OF_ROW.search(diag.message_detail or "") if error.sqlstate in _OF_KEYS else None
    if found is None or not diag.table_name:
        return None
    columns, values = (tuple(part.split(", ")) for part in found.groups())
    if len(columns) == 1:
        values = (found[2],)
    names = tuple(column[1:-1].replace('""', '"') if column.startswith('"') else column for column in columns)
    table = f"{diag.schema_name}.{diag.table_name}" if diag.schema_name else diag.table_name
    return Conflict(table, names, values) if len(names) == len(values) else None


def _meaning(state: str) -> tuple[_Kind, str, str]:
    unknown = (Fatal, "unexpected_server_error", f"SQLSTATE {state or 'none'}: look into the server's log")
    return _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or unknown


def _state_of_connecting(error: psycopg.Error) -> str:
    text = str(error)
    for part, state in _CONNECT_MESSAGES:
        if part in text:
            return state
    if "FATAL" in text and "does not exist" in text:
        return "3D000" if "database" in text else "28000"
    if error.pgconn is not None and (error.pgconn.needs_password or error.pgconn.used_password) and "FATAL" in text:
        return "28P01"
    return "08006"


_OF_VALUES: Final = ("21", "22", "23", "40002", "44", "54")
"""SQLSTATEs of errors about a row: what PostgreSQL says about them may repeat its values."""
_OF_KEYS: Final = ("23503", "23505")
_KEY_OF_ROW: Final = re.compile(r"\((.*?)\)=\((.*)\)", re.DOTALL)
_KEY_VALUES: Final = re.compile(r"\)=\(.*\)", re.DOTALL)
_OF_LIBPQ: Final = re.compile(r"^connection (?:failed|is bad): |\s*Is the server running[^?]*\?")
"""What libpq says twice when connecting fails, or what the hint says."""
_QUOTED: Final = re.compile(r'".*"|: 0x.*', re.DOTALL)


def _one_line(error: psycopg.Error, state: str, *, detailed: bool) -> str:
    """The primary message and, if `detailed`, the detail; of what is about a row, neither whole rows nor values."""
    primary, detail = error.diag.message_primary, error.diag.message_detail if detailed else None
    if state.startswith(_OF_VALUES):
        detail = _KEY_VALUES.sub(")", detail) if detail and detail.startswith("Key (") else None
        if state.startswith("22"):
            primary = _QUOTED.sub("…", primary or str(error))
    if state.startswith("P0"):
        detail = None
    if primary and detail:
        primary = f"{primary}: {detail}"
    return " ".join((primary or _OF_LIBPQ.sub("", str(error))).split())
