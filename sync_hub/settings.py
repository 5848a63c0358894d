"""The configuration: one YAML file, checked before anything starts (`design.md` §10)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from sync_hub import registry
from sync_hub.errors import ConfigError
from sync_hub.yaml import Node, load_file

CONFIG_VARIABLE = "SYNC_HUB_CONFIG"
DEFAULT_CONFIG = Path("config/hub.yaml")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_NAME = r"^[a-z][a-z0-9_]{0,39}$"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?B)$", re.IGNORECASE)
_RECEIVER = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://\S")
_DURATION_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def duration_seconds(text: str | float) -> float:
    """Seconds of `30s`, `5m`, `2h`, `7d`, `250ms`; a bare number is seconds. Raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no duration: write 30s, 5m, 2h or 7d")
    return float(match[1]) * _DURATION_SECONDS[match[2]]


def size_bytes(text: str | int) -> int:
    """Bytes of `5GB`, `512MB`, with powers of 1024; a bare number is bytes. Raises ValueError."""
    if isinstance(text, int):
        return text
    match = _SIZE.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no size: write 512MB or 5GB")
    return int(float(match[1]) * _SIZE_BYTES[match[2].upper()])


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Model):
    """Who this hub is and where it keeps its own state."""

    name: str = Field(pattern=_NAME)
    state: str = Field(default="sqlite:///.sync-hub/state.db", repr=False)

    @field_validator("state")
    @classmethod
    def _address(cls, state: str) -> str:
        """Refuse what would be taken apart in the wrong places: parts of a password would become host and port."""
        parts = urlsplit(state)
        try:
            wrong = "@" in (parts.hostname or "") or (parts.port or 0) < 0
        except ValueError:  # its message repeats what stands where the port should be
            wrong = True
        if wrong or parts.netloc.count("@") > 1 or (parts.netloc and "@" in parts.path):
            raise ValueError("it is no address: write signs in the password as %40 (@), %2F (/), %3A (:)")
        return state


class Http(_Model):
    """The web application. A token is required on any address but the loopback's.

    `hosts` are names under which it may be asked, besides its own address, the loopback's and the machine's name.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    token: str = Field(default="", repr=False)
    hosts: tuple[str, ...] = ()


class Topics(_Model):
    """How long the embedded log keeps what every pipeline has read; and whether what is parked is copied to a topic."""

    keep: float = 7 * 86400
    parked: bool = False

    _duration = field_validator("keep", mode="before")(duration_seconds)


class VerifySettings(_Model):
    """How often every view is verified (seconds; None: only when asked), and how fast the source may be read."""

    every: float | None = None
    max_rows_per_second: int = Field(default=0, ge=0)

    @field_validator("every", mode="before")
    @classmethod
    def _duration(cls, every: str | float | None) -> float | None:
        return None if every is None else duration_seconds(every)


class _Steps(_Model):
    """Limits that are met one after the other: of those that are given, none is below the one before it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = [name for name in type(self).model_fields if name in self.model_fields_set]
        for sooner, later in pairwise(given):
            if getattr(self, sooner) > getattr(self, later):
                raise ValueError(f"`{sooner}` is above `{later}`, and would never be met first")
        return self


class Lag(_Steps):
    """From which lag a pipeline is degraded, and failing."""

    warn: float = Field(default=30, gt=0)
    fail: float = Field(default=300, gt=0)

    _durations = field_validator("warn", "fail", mode="before")(duration_seconds)


class RetainedLog(_Steps):
    """From how many bytes of log held back at the source it is degraded, and failing."""

    warn: int = 5 << 30
    fail: int = 20 << 30

    _sizes = field_validator("warn", "fail", mode="before")(size_bytes)


class Retry(_Model):
    """When a parked record is tried again: seconds until the first attempt and at most, and how often."""

    first: float = Field(default=5, gt=0)
    factor: float = Field(default=2, ge=1)
    max: float = Field(default=600, gt=0)
    attempts: int = Field(default=8, ge=1)

    _durations = field_validator("first", "max", mode="before")(duration_seconds)

    @model_validator(mode="after")
    def _first_is_shortest(self) -> Self:
        if self.first > self.max:
            raise ValueError(f"`first` is longer than `max`, which is {self.max:g} s")
        return self


class ParkedLimit(_Steps):
    """From how many parked records a pipeline is degraded, failing, and stopped instead of parking more."""

    warn: int = Field(default=1, ge=1)
    fail: int = Field(default=100, ge=1)
    stop: int = Field(default=10_000, ge=1)


class ParkedShare(_Model):
    """Of what a pipeline reads, the share that may be parked before it is stopped."""

    stop: float = 0.1

    @field_validator("stop", mode="before")
    @classmethod
    def _share(cls, value: str | float) -> float:
        text = str(value).strip()
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        if not 0 < share <= 1:
            raise ValueError("write a share such as 10%")
        return share


class VerifiedAge(_Model):
    """For how long a verification is believed, where views are verified at all."""

    warn: float = 25 * 3600

    _duration = field_validator("warn", mode="before")(duration_seconds)


class Limits(_Model):
    """What turns health yellow and red, and what stops a pipeline."""

    lag: Lag = Lag()
    retained_log: RetainedLog = RetainedLog()
    parked: ParkedLimit = ParkedLimit()
    parked_share: ParkedShare = ParkedShare()
    verified_age: VerifiedAge = VerifiedAge()


class Heartbeat(_Model):
    """An address that is called every `every` seconds while the hub is not failing; empty: none is."""

    url: str = Field(default="", repr=False)
    every: float = Field(default=60, ge=1)

    _duration = field_validator("every", mode="before")(duration_seconds)

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        if not url:
            return url
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or "@" in parts.netloc:
            raise ValueError("write http://… or https://…, without user and password")
        return url


class Alerts(_Model):
    """Who is told of problems: addresses in apprise's notation, empty ones left out; and the dead man's switch."""

    to: tuple[str, ...] = Field(default=(), repr=False)
    heartbeat: Heartbeat = Heartbeat()

    @field_validator("to")
    @classmethod
    def _addresses(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        given = [address.strip() for address in to if address.strip()]
        if not all(_RECEIVER.match(address) for address in given):
            raise ValueError("a receiver is an address such as mailto://… or jsons://…")
        return tuple(dict.fromkeys(given))


class Connector(BaseModel):
    """A source, target or broker: `type` names the connector, `options` are its own and checked by it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    type: str
    options: Any
    workers: int = Field(default=1, ge=1, le=64)

    @property
    def connector(self) -> str:
        """The name under which the connector is registered."""
        return self.type


class Settings(_Model):
    """The whole configuration; `root` is the folder that relative paths are relative to."""

    hub: Hub
    broker: Connector
    sources: dict[str, Connector]
    targets: dict[str, Connector]
    mappings: tuple[Path, ...] = (Path("mappings"),)
    http: Http = Http()
    topics: Topics = Topics()
    limits: Limits = Limits()
    verify: VerifySettings = VerifySettings()
    retry: Retry = Retry()
    alerts: Alerts = Alerts()
    file: Path
    root: Path

    def source(self, name: str) -> Any:
        """A new source connector, not yet connected."""
        return self._build("sources", name, self.sources[name])

    def sink(self, name: str) -> Any:
        """A new sink, not yet connected."""
        return self._build("sinks", name, self.targets[name])

    def new_broker(self) -> Any:
        """A new broker connector, not yet connected."""
        return self._build("brokers", "broker", self.broker)

    def _build(self, kind: str, name: str, connector: Connector) -> Any:
        return registry.load(kind, connector.type)(name, connector.options, self.hub.name)


def config_file(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configuration to use: the option, else SYNC_HUB_CONFIG, else config/hub.yaml."""
    return given or Path(environment.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def load(file: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read, fill in variables, and check the whole file. Raises `ConfigError` for the first thing that is wrong."""
    if not file.exists():
        raise ConfigError(
            "config_missing",
            f"there is no configuration at {file}",
            hint=f"name one with -c or {CONFIG_VARIABLE}, or write one with `sync-hub init`",
        )
    documents = load_file(file)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise ConfigError(
            "config_invalid", f"{file}: a configuration is one YAML mapping", hint="see config/hub.reference.yaml"
        )
    return _settings(documents[0], file, environment)


def _settings(document: Node, file: Path, environment: Mapping[str, str]) -> Settings:
    values = _filled(document.value, (), document, environment)
    root = project_root(file)
    broker = values.pop("broker", None)
    sources, targets = values.pop("sources", None), values.pop("targets", None)
    for name, section in (("broker", broker), ("sources", sources), ("targets", targets)):
        if not isinstance(section, dict) or not section:
            _refuse_mistyped(name, values, document)
            raise ConfigError(
                "config_invalid",
                f"`{name}` is missing or empty",
                where=document.where(),
                hint="see config/hub.reference.yaml",
            )
    values["file"], values["root"] = file, root
    values["broker"] = _connector("brokers", broker, ("broker",), document, root)
    values["sources"] = {
        name: _connector("sources", part, ("sources", name), document, root) for name, part in sources.items()
    }
    values["targets"] = {
        name: _connector("sinks", part, ("targets", name), document, root) for name, part in targets.items()
    }
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _explained(_telling(error), (), document, Settings) from error
    _check_names(settings, document)
    if settings.http.host not in LOOPBACK and not settings.http.token:
        raise ConfigError(
            "token_required",
            f"http.host is {settings.http.host}, which other machines reach, and there is no http.token",
            where=document.where("http"),
            hint="set http.token, or use 127.0.0.1",
        )
    return settings.model_copy(
        update={"mappings": tuple(root / path for path in settings.mappings)}
        | {"hub": _absolute_state(settings.hub, root)}
    )


def project_root(file: Path) -> Path:
    """What relative paths are relative to: `config/`'s parent if the file is in one, else the working directory."""
    folder = file.resolve().parent
    return folder.parent if folder.name == "config" else Path.cwd()


def _absolute_state(hub: Hub, root: Path) -> Hub:
    prefix = "sqlite:///"
    if hub.state.startswith(prefix) and not hub.state.startswith(prefix + "/"):
        return hub.model_copy(update={"state": f"{prefix}{root / hub.state.removeprefix(prefix)}"})
    return hub


def _check_names(settings: Settings, document: Node) -> None:
    for kind, names in (("sources", settings.sources), ("targets", settings.targets)):
        for name in names:
            if not re.match(_NAME, name):
                raise ConfigError(
                    "bad_name",
                    f"{name!r} is no name",
                    where=document.where_key(kind, name),
                    hint="use small letters, digits and _, a letter first, at most 40: topics and slots carry it",
                )


def _connector(kind: str, part: Any, path: tuple[str | int, ...], document: Node, root: Path) -> Connector:
    where, field = document.where(*path), _field(path)
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ConfigError(
            "config_invalid",
            "it needs a `type`",
            where=where,
            field=field,
            hint=f"known are: {', '.join(registry.names(kind))}",
        )
    part = dict(part)
    kind_name = part.pop("type")
    workers = part.pop("workers", 1)
    try:
        options_model: type[BaseModel] = registry.load(kind, kind_name).Options
    except ConfigError as error:
        raise ConfigError(error.code, error.message, where=where, field=field, hint=error.hint) from error
    try:
        options = options_model.model_validate(part)
        given = getattr(options, "path", None)
        if isinstance(given, Path):
            options = options.model_copy(update={"path": root / given})
        return Connector(type=kind_name, options=options, workers=workers)
    except ValidationError as error:
        raise _explained(_telling(error), path, document, options_model) from error


def _refuse_mistyped(name: str, values: Mapping[str, Any], document: Node) -> None:
    """A section that is not there may be there under another name."""
    unknown = [key for key in values if key not in Settings.model_fields]
    for key in difflib.get_close_matches(name, unknown, n=1):
        raise _unknown_key((key,), [name], document)


def _telling(error: ValidationError) -> ErrorDetails:
    """The error that tells most: an unknown key explains why another one is missing."""
    errors = error.errors()
    return next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])


def _explained(error: ErrorDetails, path: tuple[str | int, ...], document: Node, model: type[BaseModel]) -> ConfigError:
    location = tuple(step for step in error["loc"] if isinstance(step, str | int))
    full = path + location
    if error["type"] == "extra_forbidden":
        return _unknown_key(full, list(_fields(model, location[:-1])), document)
    message = error["msg"].removeprefix("Value error, ")
    code = "missing_key" if error["type"] == "missing" else "bad_value"
    return ConfigError(
        code, message, where=document.where(*full), field=_field(full), hint="see config/hub.reference.yaml"
    )


def _unknown_key(path: Sequence[str | int], known: Sequence[str], document: Node) -> ConfigError:
    """What to say of a key that is none of those that are known where it stands."""
    key = str(path[-1])
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(known)}"
    return ConfigError(
        "unknown_key", f"unknown key {key!r}", where=document.where_key(*path), field=_field(path), hint=hint
    )


def _field(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _fields(model: type[BaseModel], location: tuple[str | int, ...]) -> Iterator[str]:
    for step in location:
        field = model.model_fields.get(str(step))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return
        model = field.annotation
    for name in model.model_fields:
        if name not in ("file", "root"):
            yield name


def _filled(value: Any, path: tuple[str | int, ...], document: Node, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(part, (*path, name), document, environment) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, (*path, index), document, environment) for index, part in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environment.get(name)
        if found is None or (not found and default is not None):
            found = default
        if found is None:
            raise ConfigError(
                "unset_variable",
                f"the environment variable {name} is not set",
                where=document.where(*path),
                field=_field(path),
                hint=f"export {name}=…, or give a default: ${{{name}:-…}}",
            )
        return found

    return _VARIABLE.sub(replace, value)
