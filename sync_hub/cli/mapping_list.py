"""`sync-hub mapping list`: which mappings there are. Needs no server."""

from __future__ import annotations

import typer

from sync_hub.cli.mapping_files import MappingFiles
from sync_hub.cli.options import Config, Json
from sync_hub.cli.output import print_json, print_table, say


def list_mappings(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """List the mappings in the files: from where, to where, whose, and how many tests they have."""
    from sync_hub.mapping.spec import parse_spec

    rows = []
    for bundle in MappingFiles(context, config).bundles():
        spec = parse_spec(bundle)
        rows.append(
            {
                "mapping": spec.name,
                "source": spec.source,
                "table": spec.table,
                "target": spec.target,
                "target_table": spec.target_table,
                "owner": spec.owner,
                "tests": len(spec.tests),
                "file": f"{bundle.file}:{bundle.line}",
                "description": spec.description,
            }
        )
    if json:
        print_json(rows)
    elif not rows:
        say("no mappings yet: `sync-hub init` writes drafts")
    else:
        headings = ("mapping", "from", "to", "owner", "tests", "file")
        print_table(
            headings,
            [
                (
                    row["mapping"],
                    f"{row['source']} {row['table']}",
                    f"{row['target']} {row['target_table']}",
                    row["owner"],
                    row["tests"],
                    row["file"],
                )
                for row in rows
            ],
            right=(4,),
        )
