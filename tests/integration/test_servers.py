"""The servers of the tests are what they claim to be."""

from __future__ import annotations

import psycopg


def test_source_server_decodes_logically(source_dsn: str) -> None:
    with psycopg.connect(source_dsn) as connection:
        assert connection.execute("show wal_level").fetchone() == ("logical",)
