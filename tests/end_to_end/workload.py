"""A random application on the source: small transactions of every kind that capture has to get right."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import psycopg

SCHEMA = """
create table accounts (id bigint primary key, name text, balance numeric(14,4), big text, active boolean not null);
alter table accounts alter column big set storage external;
create table orders (shop integer, number text, total numeric, note text, primary key (shop, number));
"""
MAPPINGS = """
mapping: accounts_to_target
from: {{source: {source}, table: public.accounts}}
to: {{target: {target}, table: account_view, create: true}}
key: [account]
fields:
  account: id
  title: upper(name) || '!'
  balance: {{expr: balance, type: "numeric(14,4)"}}
  big: big
  event: _event_id
where: active
---
mapping: orders_to_target
from: {{source: {source}, table: public.orders}}
to: {{target: {target}, table: order_view, create: true}}
key: [shop, number]
copy: all
"""
KEYS = 60


class Writer(threading.Thread):
    """Random transactions until told to stop. `big` is stored out of line: updates leave it out of the log."""

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.done: Counter[str] = Counter()
        self.error: Exception | None = None

    def run(self) -> None:
        """Work until `stop`; conflicts with other writers are part of the game."""
        try:
            with psycopg.connect(self._dsn) as connection:
                while not self._stopping.wait(0.002):
                    self._transaction(connection)
        except Exception as error:
            self.error = error
            raise

    def stop(self) -> Counter[str]:
        """End after the transaction at hand; what was done, by kind."""
        self._stopping.set()
        self.join()
        assert self.error is None, self.error
        return self.done

    def _transaction(self, connection: psycopg.Connection[Any]) -> None:
        actions = [self._random.choice(ACTIONS) for _ in range(self._random.randint(1, 6))]
        try:
            for action in actions:
                action(self, connection)
                self.done[action.__name__] += 1
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            connection.rollback()
            return
        if self._random.random() < 0.1:
            connection.rollback()
        else:
            connection.commit()

    def _key(self) -> int:
        return self._random.randint(1, KEYS)

    def upsert(self, connection: psycopg.Connection[Any]) -> None:
        big = self._random.choice(["x", "y"]) * self._random.choice([10, 9000])
        values = (self._key(), f"name {self._random.random()}", self._random.randint(0, 10**6), big)
        connection.execute(
            "insert into accounts values (%s, %s, %s, %s, true) on conflict (id) do update "
            "set name = excluded.name, balance = excluded.balance",
            values,
        )

    def update(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("update accounts set balance = balance + 1.5 where id = %s", (self._key(),))

    def toggle(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("update accounts set active = not active where id = %s", (self._key(),))

    def delete(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("delete from accounts where id = %s", (self._key(),))

    def rekey(self, connection: psycopg.Connection[Any]) -> None:
        old, new = self._key(), self._key()
        connection.execute("delete from accounts where id = %s and %s <> %s", (new, new, old))
        connection.execute("update accounts set id = %s where id = %s", (new, old))

    def swap(self, connection: psycopg.Connection[Any]) -> None:
        one, two = self._key(), self._key()
        if one != two:
            connection.execute("update accounts set id = -1 where id = %s", (one,))
            connection.execute("update accounts set id = %s where id = %s", (one, two))
            connection.execute("update accounts set id = %s where id = -1", (two,))

    def savepoint(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("savepoint s")
        connection.execute("update accounts set name = 'rolled back' where id = %s", (self._key(),))
        connection.execute("rollback to s")

    def order(self, connection: psycopg.Connection[Any]) -> None:
        values = (self._random.randint(1, 3), f"№ {self._key()}", self._random.random() * 100, None)
        connection.execute(
            "insert into orders values (%s, %s, %s, %s) "
            "on conflict (shop, number) do update set total = excluded.total",
            values,
        )

    def copy(self, connection: psycopg.Connection[Any]) -> None:
        rows = [(self._random.randint(4, 6), f"{self._random.random()}", index, "copied") for index in range(20)]
        with connection.cursor() as cursor, cursor.copy("copy orders from stdin") as copy:
            for row in rows:
                copy.write_row(row)

    def purge(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("delete from orders where shop = %s", (self._random.randint(4, 6),))

    def clear(self, connection: psycopg.Connection[Any]) -> None:
        if self._random.random() < 0.02:
            connection.execute("truncate orders")


ACTIONS = (
    Writer.upsert,
    Writer.upsert,
    Writer.update,
    Writer.update,
    Writer.toggle,
    Writer.delete,
    Writer.rekey,
    Writer.swap,
    Writer.savepoint,
    Writer.order,
    Writer.copy,
    Writer.purge,
    Writer.clear,
)
