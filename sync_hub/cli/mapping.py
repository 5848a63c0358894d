"""`sync-hub mapping …`: try mappings before they run."""

from __future__ import annotations

import typer

from sync_hub.cli import mapping_functions, mapping_list, mapping_preview, mapping_test

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Test, list and preview mappings; show functions.")
app.command("test")(mapping_test.test)
app.command("list")(mapping_list.list_mappings)
app.command("preview")(mapping_preview.preview)
app.command("functions")(mapping_functions.functions)
