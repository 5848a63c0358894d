"""What the hub does about each error of PostgreSQL: one table, by SQLSTATE."""

from __future__ import annotations

import traceback

import psycopg
import pytest
from pydantic import SecretStr

from connectors.postgresql import classify, connect, literal, quote, quote_table, read_dsn
from sync_hub.errors import ConfigError, Fatal, Rejected, SyncHubError, Unavailable


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("08006", Unavailable, "connection_failed"),
        ("28P01", Unavailable, "access_denied"),
        ("3D000", Unavailable, "database_missing"),
        ("40001", Unavailable, "serialization_failure"),
        ("40P01", Unavailable, "deadlock"),
        ("53100", Unavailable, "server_disk_full"),
        ("53300", Unavailable, "too_many_connections"),
        ("55006", Unavailable, "object_in_use"),
        ("57P01", Unavailable, "server_shut_down"),
        ("57014", Unavailable, "statement_cancelled"),
        ("25006", Unavailable, "server_read_only"),
        ("22003", Rejected, "invalid_value"),
        ("23502", Rejected, "not_null_violated"),
        ("23505", Rejected, "unique_violated"),
        ("P0001", Rejected, "raised_by_trigger"),
        ("54000", Rejected, "limit_exceeded"),
        ("42501", Fatal, "privilege_missing"),
        ("42P01", Fatal, "table_missing"),
        ("XX000", Fatal, "unexpected_server_error"),
    ],
)
def test_sqlstate_decides(state: str, kind: type[SyncHubError], code: str) -> None:
    error = classify(psycopg.errors.lookup(state)("first line\nsecond line"), "target crm")
    assert (type(error), error.code) == (kind, code)
    assert error.message == "target crm: first line second line"
    assert error.hint


class OfTrigger(psycopg.DatabaseError):
    """An error with a state that the driver has no class for."""

    sqlstate = "ZZ001"


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("0A000", Rejected, "row_refused"),
        ("21000", Rejected, "row_refused"),
        ("38000", Rejected, "row_refused"),
        ("XX000", Rejected, "row_refused"),
        ("P0001", Rejected, "raised_by_trigger"),
        ("23505", Rejected, "unique_violated"),
        ("40P01", Unavailable, "deadlock"),
        ("3F000", Fatal, "schema_missing"),
        ("42501", Fatal, "privilege_missing"),
        ("42P01", Fatal, "table_missing"),
        ("57P04", Fatal, "database_dropped"),
        ("XX001", Fatal, "server_data_corrupted"),
    ],
)
def test_what_nobody_knows_is_about_the_row_that_is_written(state: str, kind: type[SyncHubError], code: str) -> None:
    error = classify(psycopg.errors.lookup(state)("it says"), "target crm", of_row=True)
    assert (type(error), error.code) == (kind, code)


def test_a_state_of_a_trigger_is_named_where_a_row_is_written_and_stops_elsewhere() -> None:
    error = classify(OfTrigger("no"), "target crm", of_row=True)
    assert isinstance(error, Rejected)
    assert (error.code, error.sqlstate) == ("row_refused", "ZZ001")
    assert "ZZ001" in error.hint
    assert isinstance(classify(OfTrigger("no"), "target crm"), Fatal)
    assert isinstance(classify(psycopg.ProgrammingError("of the driver"), "target crm", of_row=True), Fatal)


def test_rejected_keeps_the_sqlstate() -> None:
    error = classify(psycopg.errors.UniqueViolation("x"), "target crm")
    assert isinstance(error, Rejected)
    assert error.sqlstate == "23505"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('FATAL:  password authentication failed for user "u"', "access_denied"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "access_denied"),
        ('FATAL:  database "d" does not exist', "database_missing"),
        ('FATAL:  role "u" does not exist', "access_denied"),
        ("FATAL:  sorry, too many clients already", "too_many_connections"),
        ("FATAL:  the database system is starting up", "server_starting"),
        ("connection refused", "connection_failed"),
    ],
)
def test_failures_to_connect_have_no_sqlstate_and_are_told_by_their_text(message: str, code: str) -> None:
    error = classify(psycopg.OperationalError(message), "target crm")
    assert (type(error), error.code) == (Unavailable, code)


def test_lost_connection_is_unavailable_and_a_text_the_driver_refuses_is_rejected() -> None:
    assert isinstance(classify(psycopg.InterfaceError("the connection is closed"), "x"), Unavailable)
    nul = psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    assert isinstance(classify(nul, "x"), Rejected)


def test_names_and_texts_are_quoted() -> None:
    assert quote('we"ird') == '"we""ird"'
    assert quote_table("", "t") == '"t"'
    assert quote_table("s.x", "t") == '"s.x"."t"'
    assert literal("it's") == "'it''s'"
    assert literal("back\\slash") == "E'back\\\\slash'"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://app:qqq@zzz@host/db",
        "postgresql://app:qqq/zzz@host/db",
        "postgresql://app:qqq?x@zzz@host/db",
        "postgresql://app:qqq%zzzz@host/db",
        "postgresql://app:12/zzz@host/db",
        "postgresql://app:x@127.0.0.1:1/db?sslmode=qqq",
        "postgresql://app:x@127.0.0.1:1/db?connect_timeout=qqq",
        "postgresql://app:x@127.0.0.1:qqq/db",
        "host=127.0.0.1 password=x qqq dbname=db",
        "host=127.0.0.1 port=1 password=x sslmode=qqq",
        "host=127.0.0.1 password='qqq",
    ],
)
def test_an_address_that_is_wrong_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(SecretStr(address), application_name="test")
    assert caught.value.code == "bad_dsn"
    told = "".join(traceback.format_exception(caught.value)).partition("connectors/postgresql.py")[2]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for part in ("qqq", "zzz"):
        assert part not in f"{caught.value}{told}"


def test_an_address_with_escaped_signs_is_read() -> None:
    assert read_dsn("postgresql://a:p%40%2Fs@h1:1,h2:2/d?application_name=x@y")["password"] == "p@/s"
    assert read_dsn("host=h password='p@ss://a@b@c'")["password"] == "p@ss://a@b@c"


def test_a_server_that_is_not_there_is_said_once() -> None:
    with pytest.raises(Unavailable) as caught:
        connect("postgresql://u@127.0.0.1:1/x", application_name="source erp")
    assert caught.value.message == (
        'source erp: connection to server at "127.0.0.1", port 1 failed: Connection refused'
    )
