"""What is changed at the source: tables, rows that are there before, and the changes that are measured.

Every workload ends with some rows in each table, under keys above `LAST_KEY`: they lie in every partition behind all
other changes, so that who has them has everything.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from connectors.local_postgres import BINARIES

Connection = psycopg.Connection[tuple[Any, ...]]
Events = dict[str, int]
"""How many changes each table has seen."""

LAST_KEY = 2_000_000_000
PER_TRANSACTION = 1000
TABLES = 200
PGBENCH_SCALE = 20


@dataclass(frozen=True)
class Table:
    """A table of the source; one without a key is filled but not captured. The target's has the same name."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: str = "id"
    last_rows: int = 100
    computed: tuple[tuple[str, str], ...] = ()
    """What a view has in some columns instead of their values, in SQL."""

    @property
    def names(self) -> str:
        """Its columns, for a select."""
        return ", ".join(name for name, _ in self.columns)

    @property
    def view(self) -> str:
        """What a view has of it, for a select."""
        computed = dict(self.computed)
        return ", ".join(f"{computed[name]} as {name}" if name in computed else name for name, _ in self.columns)

    def ddl(self, extra: str = "") -> str:
        """`create table`, with a further column at its end."""
        parts = [f"{name} {kind}" for name, kind in self.columns] + ([extra] if extra else [])
        parts += [f"primary key ({self.key})"] if self.key else []
        return f"create table {self.name} ({', '.join(parts)})"

    def last(self) -> str:
        """Inserts the rows that come last."""
        return f"insert into {self.name} ({self.key}) select {LAST_KEY} + n from generate_series(1, {self.last_rows}) n"


def _nothing(connection: Connection, rows: int) -> None:
    """No rows before."""


@dataclass(frozen=True)
class Workload:
    """Changes to measure. `rows` is how many unless told otherwise, `scale` what a given number is multiplied with."""

    name: str
    title: str
    tables: tuple[Table, ...]
    change: Callable[[Connection, int], Events]
    existing: Callable[[Connection, int], None] = _nothing
    rows: int = 300_000
    scale: int = 1
    targets: int = 1
    partitions: int = 6
    per_second: int = 0
    procedures: tuple[str, ...] = ()

    @property
    def captured(self) -> tuple[Table, ...]:
        """Tables with a key."""
        return tuple(table for table in self.tables if table.key)

    @property
    def columns(self) -> float:
        """Values of a row."""
        return sum(len(table.columns) for table in self.captured) / len(self.captured)


CUSTOMER_COLUMNS = (
    ("id", "bigint"),
    ("first_name", "text"),
    ("last_name", "text"),
    ("email", "text"),
    ("phone", "text"),
    ("balance", "numeric(12,2)"),
    ("country_code", "char(2)"),
    ("active", "boolean"),
    ("notes", "text"),
    ("created_at", "timestamptz"),
    ("updated_at", "timestamptz"),
)
CUSTOMER_VALUES = """
n, 'First' || n, 'Last' || n, 'first.last' || n || '@example.com', '+64 21 ' || n, n % 100000 + 0.25, 'NZ', n % 7 > 0,
'Some notes about customer number ' || n, clock_timestamp(), clock_timestamp()
"""
CUSTOMERS = Table("customers", CUSTOMER_COLUMNS)
MAPPED = Table(
    "customers",
    CUSTOMER_COLUMNS,
    computed=(
        ("last_name", "concat_ws(' ', first_name, last_name)"),
        ("email", "lower(email)"),
        ("phone", "replace(phone, ' ', '')"),
        ("notes", "case when balance >= 10000 then 'gold' else 'standard' end"),
    ),
)
SPREAD = tuple(Table(f"customers_{number:03}", CUSTOMER_COLUMNS, last_rows=5) for number in range(TABLES))
KINDS = {
    "text": "'text of ' || n",
    "bigint": "n * 1000003",
    "numeric(12,2)": "n % 100000 + 0.25",
    "timestamptz": "clock_timestamp()",
    "boolean": "n % 7 > 0",
}
WIDE = Table(
    "wide",
    (("id", "bigint"), *((f"c{number:02}", list(KINDS)[(number * number) % len(KINDS)]) for number in range(1, 60))),
)
PGBENCH = (
    Table("pgbench_accounts", (("aid", "int"), ("bid", "int"), ("abalance", "int"), ("filler", "char(84)")), "aid"),
    Table("pgbench_tellers", (("tid", "int"), ("bid", "int"), ("tbalance", "int"), ("filler", "char(84)")), "tid"),
    Table("pgbench_branches", (("bid", "int"), ("bbalance", "int"), ("filler", "char(88)")), "bid"),
    Table(
        "pgbench_history",
        (
            ("tid", "int"),
            ("bid", "int"),
            ("aid", "int"),
            ("delta", "int"),
            ("mtime", "timestamp"),
            ("filler", "char(22)"),
        ),
        "",
    ),
)
UPDATE = "set balance = balance + 1, notes = notes || ' (changed)', updated_at = clock_timestamp()"
MIXED = f"""
create procedure mixed(wanted bigint, inout done bigint default 0) language plpgsql as $$
declare
    next_id bigint := (select coalesce(max(id), 0) + 1 from customers where id < {LAST_KEY - 1});
    dice float;
    chosen bigint;
    hit bigint;
begin
    perform setseed(0.5);
    while done < wanted loop
        for i in 1 .. least(1 + floor(random() * 50)::bigint, wanted - done) loop
            dice := random();
            chosen := 1 + floor(random() * (next_id - 1));
            if dice < 0.6 then
                update customers {UPDATE} where id = chosen;
            elsif dice < 0.85 then
                insert into customers select {CUSTOMER_VALUES} from generate_series(next_id, next_id) n;
                next_id := next_id + 1;
            else
                delete from customers where id = chosen;
            end if;
            get diagnostics hit = row_count;
            done := done + hit;
        end loop;
        commit;
    end loop;
end $$
"""
SPREAD_OUT = f"""
create procedure spread(transactions bigint, rows_each bigint) language plpgsql as $$
begin
    for t in 0 .. transactions - 1 loop
        for number in 0 .. {TABLES - 1} loop
            execute format('insert into customers_%s select {CUSTOMER_VALUES.replace("'", "''").replace("%", "%%")}
                            from generate_series(%s::bigint, %s::bigint) n',
                           lpad(number::text, 3, '0'), t * rows_each + 1, (t + 1) * rows_each);
        end loop;
        commit;
    end loop;
end $$
"""


def customers_from(first: int, last: int) -> bytes:
    """A statement that inserts customers of these numbers."""
    values = f"insert into customers select {CUSTOMER_VALUES} from generate_series({first}::bigint, {last}::bigint) n"
    return values.encode()


def one_statement() -> bytes:
    """`customers_from` with parameters: a statement that is planned once."""
    values = CUSTOMER_VALUES.replace("%", "%%")
    return f"insert into customers select {values} from generate_series(%s::bigint, %s::bigint) n".encode()


def insert(connection: Connection, rows: int) -> Events:
    """Customers in transactions of 1,000."""
    for start in range(1, rows + 1, PER_TRANSACTION):
        connection.execute(customers_from(start, min(rows, start + PER_TRANSACTION - 1)))
    return {"customers": rows}


def insert_at_once(connection: Connection, rows: int) -> Events:
    """Customers in one transaction."""
    connection.execute(customers_from(1, rows))
    return {"customers": rows}


def customers(connection: Connection, rows: int) -> None:
    """Customers that are there before."""
    connection.execute(customers_from(1, rows))


def update(connection: Connection, rows: int) -> Events:
    """All customers in one transaction."""
    return {"customers": connection.execute(f"update customers {UPDATE}".encode()).rowcount}


def mixed(connection: Connection, rows: int) -> Events:
    """60 % updates, 25 % inserts, 15 % deletes in transactions of 1 to 50 rows; the same ones every time."""
    row = connection.execute("call mixed(%s)", (rows,)).fetchone()
    assert row
    return {"customers": int(row[0])}


def pgbench_rows(connection: Connection, rows: int) -> None:
    """What `pgbench -i -s 20` fills its tables with."""
    _pgbench(connection, "-i", "-I", "g", "-q", "-s", str(PGBENCH_SCALE))


def pgbench(connection: Connection, rows: int) -> Events:
    """TPC-B like transactions of four clients: three updates each, and a row of history."""
    each = max(1, rows // 12)
    _pgbench(connection, "-n", "-c", "4", "-t", str(each), "--random-seed=1")
    return {table.name: 4 * each for table in PGBENCH if table.key}


def _pgbench(connection: Connection, *arguments: str) -> None:
    subprocess.run(
        [str(BINARIES / "pgbench"), *arguments, connection.info.dsn], check=True, capture_output=True, timeout=600
    )


def spread(connection: Connection, rows: int) -> Events:
    """Customers in 200 tables, 1,000 in each transaction: five a table."""
    transactions, each = max(1, rows // PER_TRANSACTION), PER_TRANSACTION // TABLES
    connection.execute("call spread(%s, %s)", (transactions, each))
    return {table.name: transactions * each for table in SPREAD}


def wide(connection: Connection, rows: int) -> Events:
    """Rows of 60 columns in transactions of 1,000."""
    values = ", ".join(KINDS[kind] for _, kind in WIDE.columns[1:])
    for start in range(1, rows + 1, PER_TRANSACTION):
        end = min(rows, start + PER_TRANSACTION - 1)
        connection.execute(
            f"insert into wide select n, {values} from generate_series({start}::bigint, {end}) n".encode()
        )
    return {"wide": rows}


def _workloads() -> Sequence[Workload]:
    one = (CUSTOMERS,)
    return (
        Workload("a", "inserts, 11 columns, 1,000 rows a transaction", one, insert),
        Workload("a10", "the same, ten times the backlog", one, insert, rows=3_000_000, scale=10),
        Workload("b", "one update of all rows", one, update, existing=customers),
        Workload("m", "as a, through a mapping with four expressions", (MAPPED,), insert),
        Workload("c", "60 % updates, 25 % inserts, 15 % deletes", one, mixed, customers, procedures=(MIXED,)),
        Workload("d", "pgbench -s 20 (its history has no key: not captured)", PGBENCH, pgbench, pgbench_rows, 120_000),
        Workload("e", "one transaction of all inserts", one, insert_at_once, rows=1_000_000),
        Workload("f", "200 tables", SPREAD, spread, procedures=(SPREAD_OUT,), partitions=1),
        Workload("g", "60 columns", (WIDE,), wide, rows=120_000),
        *(
            Workload(
                f"h{targets}", f"{targets} target{'s' * (targets > 1)}", one, insert, rows=100_000, targets=targets
            )
            for targets in (1, 2, 4, 8)
        ),
        *(
            Workload(f"i{rate}", f"{rate:,} inserts a second", one, insert, rows=30 * rate, per_second=rate)
            for rate in (1000, 5000)
        ),
    )


WORKLOADS = {workload.name: workload for workload in _workloads()}
