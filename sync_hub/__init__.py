"""sync-hub: row changes from database logs, through YAML mappings, to every system that keeps its own view."""

__version__ = "0.1.0"
