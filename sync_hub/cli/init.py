"""`sync-hub init`: a configuration and drafts of mappings from a database's catalog, or the script for its DBA."""

from __future__ import annotations

import json as jsonlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from sync_hub.cli.options import Config, Json, load_settings
from sync_hub.cli.output import note, print_json, say
from sync_hub.errors import ConfigError

if TYPE_CHECKING:
    from sync_hub.model import Table

_BARE = re.compile(r"^[A-Za-z_][\w.]*$")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def init(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="A configured source, with --sql.")] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print what a DBA runs at SOURCE: role, grants, slot.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", metavar="URL", help="The database to capture: postgresql://…")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="URL", help="Where to write: postgresql://… or sqlite:///file.db")
    ] = "sqlite:///.sync-hub/views.db",
    tables: Annotated[
        list[str] | None, typer.Option("--tables", metavar="NAMES", help="Tables or patterns, by comma. Else public.*")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write config/hub.yaml and a draft of a mapping for each table. Files that exist stay as they are."""
    if sql:
        if name is None:
            raise ConfigError("source_missing", "--sql needs the name of a source", hint="sync-hub init erp --sql")
        _print_sql(context, name, config, json)
        return
    if name is not None or source is None:
        raise ConfigError(
            "source_missing",
            "nothing says which database to capture",
            hint="sync-hub init --source postgresql://user@host/database; or, for the DBA: sync-hub init SOURCE --sql",
        )
    from sync_hub.settings import config_file

    file = config_file(config or context.find_root().params.get("config"))
    patterns = [part.strip() for given in tables or ["public.*"] for part in given.split(",") if part.strip()]
    _report(Draft(file, source, target, patterns).write(), json)


def _print_sql(context: typer.Context, name: str, config: Path | None, json: bool) -> None:
    settings = load_settings(context, config)
    if name not in settings.sources:
        hint = f"configured are: {', '.join(settings.sources)}"
        raise ConfigError("unknown_name", f"there is no source {name!r}", hint=hint)
    source = settings.source(name)
    try:
        script = source.setup_sql()
    finally:
        source.close()
    if json:
        print_json({"source": name, "sql": script})
    else:
        say(script.rstrip())


def _report(done: dict[str, list[str]], json: bool) -> None:
    if json:
        print_json(done)
        return
    for heading, lines in done.items():
        for line in lines:
            (note if heading == "left_out" else say)(f"{heading.replace('_', ' ')}: {line}")


class Place:
    """A database by its URL: which connector, which options, which name, and what of it is a secret."""

    def __init__(self, url: str, kind: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("postgresql", "postgres"):
            self.type, self.options = "postgres", {"dsn": url}
            named = parts.path.strip("/") or parts.username or kind
        elif kind == "target" and (parts.scheme == "sqlite" or Path(url).suffix in (".db", ".sqlite", ".sqlite3")):
            path = re.sub(r"^sqlite:(///)?", "", url)
            self.type, self.options = "sqlite", {"path": path}
            named = Path(path).stem
        else:
            known = "postgresql://user@host/database" + (" or sqlite:///file.db" if kind == "target" else "")
            raise ConfigError(
                "unknown_url", f"--{kind} is no address of a database that is known", hint=f"write {known}"
            )
        self.secret = bool(parts.password or parse_qs(parts.query).get("password"))
        self.name = _name(named, kind)

    def written(self) -> dict[str, str]:
        """The options as they stand in the configuration: a secret comes from the environment."""
        return {"dsn": f"${{{self.variable}}}"} if self.secret else self.options

    @property
    def variable(self) -> str:
        """The environment variable that holds the address."""
        return f"{self.name.upper()}_DSN"


class Draft:
    """What `init` writes."""

    def __init__(self, file: Path, source: str, target: str, patterns: list[str]) -> None:
        from sync_hub.settings import project_root

        if source == target:
            raise ConfigError(
                "same_database", "source and target are the same database", hint="views need a place of their own"
            )
        self._file = file
        self._root = project_root(file)
        self._patterns = patterns
        self._source = Place(source, "source")
        self._target = Place(target, "target")
        if self._target.name == self._source.name:
            self._target.name = f"{self._source.name[:33]}_views"

    def write(self) -> dict[str, list[str]]:
        """Read the catalog and write what is missing; says what was written, kept and left out, and what comes next."""
        from sync_hub.mapping.catalog import catalog_text

        tables, left_out = self._tables()
        if not tables:
            raise ConfigError(
                "no_tables",
                f"no table with a key matches {', '.join(self._patterns)}",
                hint="; ".join(left_out) or "name some with --tables schema.table",
            )
        done: dict[str, list[str]] = {"written": [], "kept": [], "left_out": left_out, "next": []}
        self._put(self._file, self._configuration(tables), done)
        saved = self._root / "config" / "catalog" / f"{self._source.name}.yaml"
        self._put(saved, catalog_text(self._source.name, tables), done)
        names = [table.name for table in tables]
        for table in tables:
            stem = _name(table.full_name if names.count(table.name) > 1 else table.name, "table")
            self._put(self._root / "mappings" / f"{stem}.yaml", self._mapping(table, stem), done)
        places = (("--source", self._source), ("--target", self._target))
        done["next"] = [f"export {place.variable}=…  # the URL of {name}" for name, place in places if place.secret]
        done["next"] += ["sync-hub check", "sync-hub run"]
        return done

    def _tables(self) -> tuple[list[Table], list[str]]:
        from sync_hub import registry

        connector = registry.load("sources", self._source.type)
        options = connector.Options.model_validate(self._source.options | {"tables": self._patterns})
        source = connector(self._source.name, options, "sync_hub")
        tables, left_out = [], []
        try:
            for name in source.tables():
                table = source.describe(name)
                if table is None:
                    left_out.append(f"{name}: there is no such table")
                elif not table.key:
                    left_out.append(f"{name}: it has no primary key, so its rows cannot be told apart")
                else:
                    tables.append(table)
        finally:
            source.close()
        return tables, left_out

    def _put(self, path: Path, text: str, done: dict[str, list[str]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            done["kept"].append(shown)
        except OSError as error:
            raise ConfigError("file_unwritable", f"{path}: {error.strerror}", hint="check folder and rights") from error
        else:
            done["written"].append(shown)

    def _configuration(self, tables: list[Table]) -> str:
        lines = "".join(f"      - {_yaml(table.full_name)}\n" for table in tables)
        hub = _name(self._root.resolve().name, "hub")
        return (
            "# Written by `sync-hub init`. Every key there is: docs/reference/configuration.md\n"
            f"hub: {{name: {hub}}}\n\n"
            "broker: {type: embedded}\n\n"
            f"sources:\n  {self._source.name}:\n    type: {self._source.type}\n{_options(self._source, 4)}"
            f"    tables:\n{lines}\n"
            f"targets:\n  {self._target.name}:\n    type: {self._target.type}\n{_options(self._target, 4)}\n"
            "mappings: [mappings/]\n\n"
            'http: {host: 127.0.0.1, port: 8080, token: "${SYNC_HUB_TOKEN:-}"}\n'
        )

    def _mapping(self, table: Table, stem: str) -> str:
        target = self._target.name
        table_name = _yaml(table.full_name)
        columns = [column for column in table.columns if column.carried]
        width = max(len(_yaml(column.name)) for column in columns)
        copied = "".join(f"  - {_yaml(column.name):<{width}}  # {column.type}\n" for column in columns)
        missing = [column.name for column in table.columns if not column.carried]
        remark = f"# Not in the log, so left out: {', '.join(missing)}\n" if missing else ""
        return (
            "# A draft: every column as it is. Move columns from `copy` to `fields` to rename or compute them:\n"
            "#   fields:\n"
            "#     full_name: concat_ws(' ', first_name, last_name)\n"
            f"{remark}"
            f"mapping: {_name(f'{stem}_to_{target}', 'mapping', 63)}\n"
            f"description: {_yaml(f'{table.full_name} as it is')}\n"
            f"from: {{source: {self._source.name}, table: {table_name}}}\n"
            f"to: {{target: {target}, table: {_yaml(stem)}, create: true}}\n"
            f"key: [{', '.join(map(_yaml, table.key))}]\n"
            f"copy:\n{copied}"
        )


def _options(place: Place, indent: int) -> str:
    return "".join(f"{' ' * indent}{name}: {_yaml(value)}\n" for name, value in place.written().items())


def _yaml(text: str) -> str:
    """A text as YAML, quoted where it would be read as something else."""
    return text if _BARE.match(text) and text.lower() not in _YAML_WORDS else jsonlib.dumps(text, ensure_ascii=False)


def _name(text: str, otherwise: str, longest: int = 40) -> str:
    """A name for the hub's use: small letters, digits and _, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:longest].rstrip("_")
    return name if re.match(r"^[a-z]", name) else otherwise
