"""The hub's own tables. Columns added later have a default: a store of an older release gets them when it is opened."""

from __future__ import annotations

import sqlalchemy as sa

from sync_hub.store import metadata

positions = sa.Table(
    "sync_hub_positions",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("saved_at", sa.Float, nullable=False),
)
progress = sa.Table(
    "sync_hub_progress",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("source_time", sa.Float, nullable=False),
    sa.Column("stored_at", sa.Float, nullable=False),
    sa.Column("offsets", sa.Text, nullable=False),
)
tables = sa.Table(
    "sync_hub_tables",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
)
pipelines = sa.Table(
    "sync_hub_pipelines",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("bundle", sa.Text, nullable=False),
    sa.Column("applied_at", sa.Float, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("loaded_at", sa.Float),
    sa.Column("unproven", sa.Text, nullable=False, server_default=""),
    sa.Column("reloads", sa.Integer, nullable=False, server_default="0"),
)
snapshots = sa.Table(
    "sync_hub_loads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("pipelines", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("condition", sa.Text, nullable=False),
    sa.Column("row_keys", sa.Text, nullable=False),
    sa.Column("last_key", sa.Text),
    sa.Column("rows_done", sa.BigInteger, nullable=False),
    sa.Column("rows_estimated", sa.BigInteger, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("copied", sa.Boolean, nullable=False, server_default=sa.false()),
)
verifications = sa.Table(
    "sync_hub_verifications",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("pipeline", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("error", sa.Text, nullable=False),
)
probes = sa.Table(
    "sync_hub_probes",
    metadata,
    sa.Column("verification", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
)
workers = sa.Table(
    "sync_hub_workers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("beat_at", sa.Float, nullable=False),
)
requests = sa.Table(
    "sync_hub_requests",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("worker", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("done_at", sa.Float),
    sa.Column("result", sa.Text),
)
pauses = sa.Table(
    "sync_hub_pauses",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float),
)
incidents = sa.Table(
    "sync_hub_incidents",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("affects", sa.Text, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("failing_at", sa.Float),
    sa.Column("closed_at", sa.Float),
)
sa.Index(
    "sync_hub_incidents_open",
    incidents.c.code,
    incidents.c.subject,
    unique=True,
    sqlite_where=incidents.c.closed_at.is_(None),
    postgresql_where=incidents.c.closed_at.is_(None),
)
alerts = sa.Table(
    "sync_hub_alerts",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("incident", sa.BigInteger, nullable=False, index=True),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("written_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("sent_at", sa.Float),
    sa.Column("error", sa.Text, nullable=False),
)
