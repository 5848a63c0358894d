"""The application of a chaos run: seeded random transactions, and a ledger in the source of what was committed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import psycopg

SCHEMA = """
create table parents (id bigint primary key, code text not null, name text, balance numeric(14,4), big text,
    active boolean not null, unique (code) deferrable initially deferred);
alter table parents alter column big set storage external;
create table children (id bigint primary key, slot integer, note text,
    parent bigint not null references parents on delete cascade on update cascade deferrable initially deferred);
create table items (shop integer, number text, total numeric, note text, primary key (shop, number));

create table ledger
    (seq bigserial primary key, xid text default pg_current_xact_id()::text, tbl text, op text, key text);
create function note_down() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into ledger (tbl, op) values (tg_table_name, 't');
    elsif tg_op = 'DELETE' then
        insert into ledger (tbl, op, key) values (tg_table_name, 'd', key_of(tg_table_name, to_jsonb(old)));
    elsif tg_op = 'INSERT' then
        insert into ledger (tbl, op, key) values (tg_table_name, 'c', key_of(tg_table_name, to_jsonb(new)));
    elsif key_of(tg_table_name, to_jsonb(old)) = key_of(tg_table_name, to_jsonb(new)) then
        insert into ledger (tbl, op, key) values (tg_table_name, 'u', key_of(tg_table_name, to_jsonb(new)));
    else
        insert into ledger (tbl, op, key) values (tg_table_name, 'd', key_of(tg_table_name, to_jsonb(old)));
        insert into ledger (tbl, op, key) values (tg_table_name, 'c', key_of(tg_table_name, to_jsonb(new)));
    end if;
    return null;
end $$;
create function key_of(tbl text, r jsonb) returns text language sql as
    $$ select case tbl when 'items' then (r->>'shop') || '/' || (r->>'number') else r->>'id' end $$;
"""
TRIGGERS = "".join(
    f"create trigger rows after insert or update or delete on {table} for each row execute function note_down();"
    f"create trigger truncated after truncate on {table} execute function note_down();"
    for table in ("parents", "children", "items")
)
ROWS = """
insert into parents select n, 'c' || n, 'before', n, case when n % 5 = 0 then repeat('z', 9000) end, true
    from generate_series(1, 40) n;
insert into children select n, n, 'before', 1 + n % 40 from generate_series(1, 80) n;
insert into items select n % 5, n::text, n, 'before' from generate_series(1, 1500) n;
"""
PARENTS, CHILDREN, SHOPS = 60, 150, 5
BULK_ROWS = 3000
CONFLICTS = (
    psycopg.errors.IntegrityError,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)
"""What applications bring upon one another; such a transaction is rolled back."""
PACE_SECONDS = 0.015
RETRY_SECONDS = 0.1

Connection = psycopg.Connection[Any]


class Application(threading.Thread):
    """Random transactions until told to stop; it connects again when the source comes back."""

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=2) as connection:
                    connection.execute("set lock_timeout = '2s'")
                    connection.commit()
                    while not self._stopping.wait(self._random.random() * PACE_SECONDS * 2):
                        self._transaction(connection)
            except psycopg.OperationalError:
                self._stopping.wait(RETRY_SECONDS)
            except BaseException as error:
                self.error = error
                raise

    def stop(self) -> Counter[str]:
        """End after the transaction at hand. Raises what the application met that it must not meet."""
        self._stopping.set()
        self.join(30)
        if self.error is not None:
            raise AssertionError(f"the application met {type(self.error).__name__}: {self.error}") from self.error
        return self.done

    def _transaction(self, connection: Connection) -> None:
        actions = self._random.choices(ACTIONS, WEIGHTS, k=self._random.randint(1, 5))
        try:
            for action in actions:
                action(self, connection)
            if self._random.random() < 0.1:
                connection.rollback()
                return
            connection.commit()
        except CONFLICTS:
            connection.rollback()
            return
        self.done.update(action.__name__ for action in actions)

    def _parent(self) -> int:
        return self._random.randint(1, PARENTS)

    def _item(self) -> tuple[int, str]:
        return self._random.randint(0, SHOPS - 1), str(self._random.randint(1, 60))

    def upsert_parent(self, connection: Connection) -> None:
        number = self._parent()
        big = self._random.choice(["x", "y"]) * self._random.choice([10, 10, 10, 9000])
        values = (number, f"c{number} {self._random.random()}", f"name {self._random.random()}", big)
        connection.execute(
            "insert into parents values (%s, %s, %s, 1, %s, true) on conflict (id) do update set name = excluded.name",
            values,
        )

    def update_parent(self, connection: Connection) -> None:
        connection.execute("update parents set balance = balance + 1.5 where id = %s", (self._parent(),))

    def toggle(self, connection: Connection) -> None:
        connection.execute("update parents set active = not active where id = %s", (self._parent(),))

    def delete_parent(self, connection: Connection) -> None:
        connection.execute("delete from parents where id = %s", (self._parent(),))

    def delete_and_insert(self, connection: Connection) -> None:
        number = self._parent()
        connection.execute("delete from parents where id = %s", (number,))
        connection.execute("insert into parents values (%s, %s, 'again', 2, null, true)", (number, f"again {number}"))

    def hand_over(self, connection: Connection) -> None:
        """A parent goes, another one takes its code."""
        old, new = self._parent(), self._parent()
        row = connection.execute("delete from parents where id = %s returning code", (old,)).fetchone()
        if row and old != new:
            connection.execute("update parents set code = %s where id = %s", (row[0], new))

    def rekey(self, connection: Connection) -> None:
        old, new = self._parent(), self._parent()
        connection.execute("delete from parents where id = %s and %s <> %s", (new, new, old))
        connection.execute("update parents set id = %s where id = %s", (new, old))

    def swap_keys(self, connection: Connection) -> None:
        one, two = self._parent(), self._parent()
        if one != two:
            connection.execute("update parents set id = -1 where id = %s", (one,))
            connection.execute("update parents set id = %s where id = %s", (one, two))
            connection.execute("update parents set id = %s where id = -1", (two,))

    def swap_codes(self, connection: Connection) -> None:
        connection.execute(
            "update parents a set code = b.code from parents b where (a.id, b.id) in ((%s, %s), (%s, %s))",
            (one := self._parent(), two := self._parent(), two, one),
        )

    def upsert_child(self, connection: Connection) -> None:
        """A child of a parent that may have come with this very transaction."""
        number, parent = self._random.randint(1, CHILDREN), self._parent()
        connection.execute(
            "insert into children (id, slot, note, parent) select %s, 1, %s, id from parents where id = %s"
            " on conflict (id) do update set parent = excluded.parent, note = excluded.note",
            (number, f"{self._random.random()}", parent),
        )

    def delete_child(self, connection: Connection) -> None:
        connection.execute("delete from children where id = %s", (self._random.randint(1, CHILDREN),))

    def savepoint(self, connection: Connection) -> None:
        connection.execute("savepoint s")
        connection.execute("update parents set name = 'rolled back' where id = %s", (self._parent(),))
        connection.execute("insert into items values (9, %s, 1, 'rolled back')", (f"{self._random.random()}",))
        connection.execute("rollback to s")

    def upsert_item(self, connection: Connection) -> None:
        """Now and then a row that a target refuses; the next of its key mends it."""
        note = "bad" if self._random.random() < 0.05 else self._random.choice([None, "good", "№"])
        connection.execute(
            "insert into items values (%s, %s, %s, %s)"
            " on conflict (shop, number) do update set total = excluded.total, note = excluded.note",
            (*self._item(), self._random.random() * 100, note),
        )

    def bulk(self, connection: Connection) -> None:
        start = self._random.randint(0, 3) * 1000
        connection.execute(
            "insert into items select 7, (%s + n)::text, n, 'bulk' from generate_series(1, %s) n"
            " on conflict (shop, number) do update set total = excluded.total + 1",
            (start, BULK_ROWS),
        )

    def purge(self, connection: Connection) -> None:
        connection.execute("delete from items where shop = 7")

    def clear_items(self, connection: Connection) -> None:
        connection.execute("truncate items")

    def clear_children(self, connection: Connection) -> None:
        """Not the parents: their view is referred to, see what is said of TRUNCATE in the limits."""
        connection.execute("truncate children")


CHOICES = {
    Application.upsert_parent: 16,
    Application.update_parent: 16,
    Application.toggle: 6,
    Application.delete_parent: 4,
    Application.delete_and_insert: 5,
    Application.hand_over: 4,
    Application.rekey: 5,
    Application.swap_keys: 5,
    Application.swap_codes: 5,
    Application.upsert_child: 12,
    Application.delete_child: 4,
    Application.savepoint: 6,
    Application.upsert_item: 16,
    Application.bulk: 0.03,
    Application.purge: 0.06,
    Application.clear_items: 0.2,
    Application.clear_children: 0.2,
}
ACTIONS, WEIGHTS = list(CHOICES), list(CHOICES.values())


def committed(dsn: str, after: int) -> list[tuple[int, str, str, str, str | None]]:
    """What was committed since a place in the ledger: (seq, xid, table, op, key), in commit order of each key."""
    with psycopg.connect(dsn) as connection:
        return connection.execute("select * from ledger where seq > %s order by seq", (after,)).fetchall()
