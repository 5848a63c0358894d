"""Rows that a target refuses, in any order with those that it takes: once it takes all, the views are right.

Meanwhile workers are killed, and their number changes.
"""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import psycopg
import pytest

from tests.end_to_end.hub import wait_until
from tests.end_to_end.lab import execute, moment
from tests.end_to_end.test_parking import Parks

SCHEMA = """
create table accounts (id bigint primary key, name text, balance numeric, big text, active boolean);
alter table accounts alter big set storage external;
create table orders (shop bigint, number int, total numeric, big text, primary key (shop, number));
alter table orders alter big set storage external;
"""
TARGET = (
    "create table account_view (id bigint primary key, name text constraint once unique deferrable,"
    " balance numeric constraint good check (balance >= 0), big text)",
    "create table order_view (shop bigint constraint parent references account_view deferrable, number int,"
    " total numeric constraint good check (total >= 0), big text, primary key (shop, number))",
)
MAPPINGS = """
mapping: accounts
from: {source: {source}, table: public.accounts}
to: {target: crm, table: account_view}
key: [id]
copy: [id, name, balance, big]
where: active
---
mapping: orders
from: {source: {source}, table: public.orders}
to: {target: crm, table: order_view}
key: [shop, number]
copy: all
"""
MEND = (
    "alter table account_view drop constraint good, drop constraint once",
    "alter table order_view drop constraint good, drop constraint parent",
)


SETTINGS = """
retry: {first: 0.3s, factor: 1, attempts: 1000}
limits: {parked_share: {stop: 100%}}
"""
STEPS = 200


def change(choose: random.Random) -> str:
    """One statement of an application: values that the target refuses, keys that move, rows that leave the filter."""
    id_, other = choose.sample(range(1, 13), 2)
    balance, big = choose.choice([-1, 1, 2, 3, 4]), choose.choice(["null", "repeat('x', 9000)", "repeat('y', 9000)"])
    name, active = choose.choice("abcdefghijklmnop"), choose.choice(["true", "true", "true", "false"])
    return choose.choice(
        (
            f"insert into accounts values ({id_}, '{name}', {balance}, {big}, {active}) on conflict do nothing",
            f"insert into accounts values ({id_}, '{name}', {balance}, {big}, {active}) on conflict do nothing",
            f"update accounts set balance = {balance} where id = {id_}",
            f"update accounts set name = '{name}' where id = {id_}",
            f"update accounts set active = {active} where id = {id_}",
            f"update accounts set id = {other} where id = {id_} and not exists"
            f" (select from accounts where id = {other})",
            f"update accounts set id = {other} + 100 where id = {id_}; update accounts set id = {id_}"
            f" where id = {other} + 100",
            f"delete from accounts where id = {id_}",
            f"insert into orders values ({id_}, {other}, {balance}, {big}) on conflict do nothing",
            f"update orders set total = {balance} where shop = {id_}",
            f"update orders set shop = {other} where shop = {id_} and not exists"
            f" (select from orders where shop = {other})",
            f"delete from orders where shop = {id_}",
        )
    )


def altered(target_dsn: str, statement: str) -> bool:
    """Whether it came through: the hub may hold one of the tables that it needs, and wait for the other one."""
    try:
        execute(target_dsn, statement)
    except psycopg.errors.DeadlockDetected:
        return False
    return True


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_rows_that_are_refused_for_a_while_end_as_they_should(
    request: pytest.FixtureRequest, tmp_path: Path, source_dsn: str, target_dsn: str, kind: str
) -> None:
    broker = ""
    if kind == "kafka":
        address = request.getfixturevalue("kafka_address")
        broker = f"{{type: kafka, bootstrap_servers: ['{address}'], partitions: 3, replication_factor: 1}}"
    seed = random.randrange(1000)
    choose = random.Random(seed)
    execute(source_dsn, SCHEMA)
    execute(target_dsn, *TARGET)
    lab = Parks(tmp_path, f"m{uuid.uuid4().hex[:8]}", source_dsn, target_dsn, MAPPINGS, broker=broker, workers=2)
    workers, config = 2, lab.config.read_text() + SETTINGS
    lab.config.write_text(config)
    try:
        lab.start()
        lab.settle()
        with psycopg.connect(source_dsn) as connection:
            for number in range(STEPS):
                for _ in range(choose.choice((1, 1, 2, 4))):
                    connection.execute(change(choose))
                connection.commit()
                if number % 100 == 50:
                    lab.kill(f"deliver:crm:{number // 100 % 2}" if workers == 2 else "deliver:crm")
                if number % 66 == 65:
                    workers = 3 - workers
                    lab.stop()
                    lab.config.write_text(config.replace("workers: 2", f"workers: {workers}"))
                    lab.start()
                if number % 40 == 0:
                    moment(0.4)
        execute(source_dsn, "insert into accounts values (99, 'last', -1, null, true)")
        wait_until(lambda: any(row.key == '{"id":99}' for row in lab.parked("accounts")), "the last one is held")
        for statement in MEND:
            wait_until(lambda statement=statement: altered(lab.target, statement), "the target takes everything")
        assert lab.cli("parked", "retry", "--all").returncode == 0
        wait_until(lambda: not lab.parked("accounts") and not lab.parked("orders"), "nothing is held")
        lab.agrees()
    except AssertionError as error:
        held = [row for name in ("accounts", "orders") for row in lab.parked(name)]
        raise AssertionError(f"seed {seed}: {error}\n{held}\n{lab.log()[-4000:]}") from error
    finally:
        lab.close()
