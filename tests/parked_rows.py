"""Parked records as a worker would have written them into a target."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from sync_hub.envelope import Encoder
from sync_hub.model import Offset, Parked, SinkBatch, version_prefix, version_suffix
from tests.events import change_event
from tests.hub_state import HubState

PIPELINE = "customer_to_crm"
TOPIC = "erp.public.customers"
FIRST_AT = 1_795_000_000.0


def row(number: int, **changes: object) -> Parked:
    """The record of one customer."""
    event = change_event(
        source="erp",
        schema="public",
        table="customers",
        operation="update",
        key={"id": number},
        before=None,
        after={"id": number, "name": f"<b>Ada {number}</b>"},
        version=version_prefix(1, 7) + version_suffix(number),
        committed_at=1,
    )
    (record,) = Encoder().encode([event])
    parked = Parked(
        pipeline=PIPELINE,
        topic=TOPIC,
        partition=0,
        seq=number,
        offset=number,
        key=f'{{"id":{number}}}',
        version=event.version,
        state="parked",
        code="check_violated",
        message=f"public.customers {{'id': {number}}}: refused",
        hint="mend the row",
        attempts=8,
        first_at=FIRST_AT + number,
        last_at=FIRST_AT + number,
        record_key=record.key,
        record_value=record.value,
    )
    return replace(parked, **changes)


def hold(hub: HubState, rows: Sequence[Parked], *, target: str = "crm") -> None:
    """Write them into the target; they are of one pipeline."""
    sink = hub.settings.sink(target)
    sink.open()
    before = Offset(rows[0].pipeline, TOPIC, 0, "0" * 32, 9, "", "hash")
    sink.start_offsets([before])
    sink.write(SinkBatch([(before, replace(before, parked_seq=max(row.seq for row in rows) + 1))], [], list(rows)))
    sink.close()
