"""`sync-hub`: the commands together, and how they end. No error ever shows a traceback unless it is asked for."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sync_hub import __version__
from sync_hub.cli import (
    alerts,
    apply,
    check,
    init,
    mapping,
    parked,
    pause,
    plan,
    recover,
    resume,
    run,
    snapshot,
    status,
    tail,
    topics,
    verify,
)
from sync_hub.cli.options import Config
from sync_hub.cli.output import nobody_reads, one_line, paint, say
from sync_hub.errors import SyncHubError

EXIT_FOUND, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="sync-hub",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("check", check.check),
    ("init", init.init),
    ("plan", plan.plan),
    ("apply", apply.apply),
    ("run", run.run),
    ("status", status.status),
    ("pause", pause.pause),
    ("resume", resume.resume),
    ("snapshot", snapshot.snapshot),
    ("verify", verify.verify),
    ("recover", recover.recover),
    ("topics", topics.topics),
    ("tail", tail.tail),
):
    app.command(name)(command)
app.add_typer(mapping.app, name="mapping")
app.add_typer(alerts.app, name="alerts")
app.add_typer(parked.app, name="parked")
if importlib.util.find_spec("sync_hub.cli.demo"):
    app.command("demo")(importlib.import_module("sync_hub.cli.demo").demo)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"sync-hub {__version__}")
        raise typer.Exit


@app.callback(help="Keep every system's view of the data current: from database logs, through mappings, to targets.")
def root(
    config: Config = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an unexpected error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before a command; `-c` may also stand after it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 fine, 1 found differences or failures, 2 usage or configuration, 3 unavailable."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run([argument for argument in given if argument != "--debug"], "--debug" in given))


def _run(arguments: list[str], debug: bool) -> int:
    in_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="sync-hub", standalone_mode=False)
        sys.stdout.flush()
    except SyncHubError as error:
        return _failed(error, in_json)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message())
            return EXIT_USAGE
        return _failed(SyncHubError("usage", error.format_message(), hint=_help(error)), in_json, EXIT_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        nobody_reads()
        return 0
    except Exception as error:
        if debug:
            raise
        message = f"{type(error).__name__}: {error}"
        return _failed(SyncHubError("unexpected", message, hint="repeat with --debug to see where"), in_json)
    return code if isinstance(code, int) else 0


def _help(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context else ""


def _failed(error: SyncHubError, in_json: bool, code: int | None = None) -> int:
    line = one_line(str(error))
    sys.stderr.write(paint(line, "red", stream=sys.stderr) + "\n")
    if in_json:
        parts = {"code": error.code, "message": error.message, "hint": error.hint, "command": error.command}
        say(json.dumps({"error": parts}, ensure_ascii=False))
    return error.exit_code if code is None else code


if __name__ == "__main__":
    main()
