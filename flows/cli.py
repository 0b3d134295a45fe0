"""The command line `mlff-screen`. Its options are the fields of a call, word for word.

Exit status: 0, every record is accounted for (rejected and failed molecules are data); 1, the run
itself failed; 2, the call was wrong; 130, it was stopped by Ctrl-C.

Torch and Prefect take seconds to import, so nothing here imports them before the call was checked.
"""

import argparse
import json
import logging
import os
import signal
import sys
import typing
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from pydantic import ValidationError

from flows import export, status
from flows.call import Call, DistillCall, ScreenCall, group_of
from flows.glance import glance
from flows.report import write as report
from flows.server import needs_prefect
from flows.stop import Stop
from flows.strain import StrainCall
from flows.text import json_line, visible
from mlff_core.errors import MlffError

if TYPE_CHECKING:
    from flows.terminal import Terminal
    from mlff_core.store import Location

C = TypeVar("C", bound=Call)

#: Nothing of a run leaves the machine; a terminal shows the run, not the orchestration.
ENVIRONMENT = {
    # Threads that spin while they wait take the cores from the embedding processes: a force call
    # beside them took six times as long. Read when torch is imported, hence not later than here.
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    # The first start makes a database, and may share slow cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

EPILOGUE = "Results, parameters, schedules: docs/operations.md. Columns: docs/schema.md."


#: Commands that compute take the fields of these.
CALLS: tuple[type[Call], ...] = (ScreenCall, StrainCall, DistillCall)

#: Commands that answer in words: who does it, and what that is.
ANSWERS: dict[str, tuple[Any, str]] = {
    "report": (report, "Show a run, or two, as an HTML page that needs no network."),
    "export": (export, "Write conformers of a run into a file for other programs."),
    "status": (status, "Say how far a run is: done, failed, left, how long yet."),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line, and whose `%` is a plain letter."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = {_option(name) for call in CALLS for name in call.model_fields}
            near = [get_close_matches(word, known, 1) for word in unknown.split()]
            meant = ", ".join(names[0] for names in near if names)
            message += f" (near it: {meant})" * bool(meant)
        if message == "the following arguments are required: command":
            message = "nothing to do; mlff-screen --help lists the commands"
        refuse(message)


class Version(argparse.Action):
    """Says the version, and reads it only when asked: it takes longer than all other options."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        """Say it, leave with status 0."""
        from importlib.metadata import version

        print(f"mlff-screen {version('mlff-screen')}")
        raise SystemExit(0)


def refuse(message: object) -> NoReturn:
    """The call was wrong: say so in one line, leave with status 2."""
    print("mlff-screen:", on_one_line(message), file=sys.stderr)
    raise SystemExit(2)


def on_one_line(message: object) -> str:
    """A message that may quote a file of anyone's: one line, and nothing that moves a cursor."""
    text = " ".join(str(message).split())
    return "".join(c if c.isprintable() else "?" for c in text)


def show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """Say a warning in one line, without the line of code that gave it."""
    print("mlff-screen: warning:", on_one_line(message), file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    arguments = vars(parser().parse_args(argv))
    command = arguments.pop("command")
    if command == "info":
        from flows.info import print_info

        return print_info(as_json=arguments["json"])
    if command in ANSWERS:
        try:
            print(visible(ANSWERS[command][0].run(arguments)))
        except (MlffError, ValueError, OSError) as error:
            refuse(error)
        return 0
    quiet, as_json = arguments.pop("quiet"), arguments.pop("json")
    level = "INFO" if arguments.pop("verbose") else "WARNING"
    # Prefect reads it when it is imported, which is later than this.
    if level == "INFO":
        os.environ["PREFECT_LOGGING_LEVEL"] = level
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", level)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    warnings.showwarning = show_warning
    if command == "distill":
        return run_distill(checked(arguments, DistillCall), quiet=quiet, as_json=as_json)
    if command == "strain":
        return run_strain(checked(arguments, StrainCall), quiet=quiet, as_json=as_json)
    if arguments["out"] is None:
        arguments["out"] = str(Path("out") / Path(arguments["library"]).name.split(".")[0])
    return run_screen(checked(arguments, ScreenCall), quiet=quiet, as_json=as_json)


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="mlff-screen", description="SMILES -> relaxed 3D conformers in Parquet.")
    if find_spec("shtab") is not None:  # the extra `completion`
        import shtab

        shtab.add_argument_to(top, help="Print what completes this command in a shell")
    top.add_argument("--version", action=Version, nargs=0, help="Say the version")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, call, positional, sentence in (
        ("run", ScreenCall, "library", "Screen a library."),
        ("strain", StrainCall, "poses", "Say how strained given poses are."),
        ("distill", DistillCall, "table", "Teach a student what a teacher knows."),
    ):
        command = commands.add_parser(
            name, help=sentence, description=sentence, epilog=EPILOGUE, allow_abbrev=False
        )
        add_options(command, call, positional)
        speech = command.add_argument_group("what is said")
        speech.add_argument("--quiet", action="store_true", help="Say nothing but errors")
        speech.add_argument("--json", action="store_true", help="One JSON object on stdout, alone")
        speech.add_argument("--verbose", action="store_true", help="Show the log")
    for name, (module, sentence) in ANSWERS.items():
        module.add_options(
            commands.add_parser(
                name, help=sentence, description=sentence, epilog=EPILOGUE, allow_abbrev=False
            )
        )
    info = commands.add_parser("info", help="Say versions, device, model, and what is missing.")
    info.add_argument("--json", action="store_true", help="One JSON object")
    return top


def add_options(command: argparse.ArgumentParser, call: type[Call], positional: str) -> None:
    """Add an option for each field of a call, in the field's group; what it reads is positional."""
    groups: dict[str, Any] = {}
    for name, field in call.by_group().items():
        kind: Any = field.annotation
        if isinstance(kind, UnionType):
            kind = next(t for t in typing.get_args(kind) if t is not NoneType)
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        metavar = "|".join(choices) or {int: "N", float: "X"}.get(kind, "TEXT")
        default = "" if name == positional or field.default in (None, False) else field.default
        if (name, call) == ("out", ScreenCall):
            default = "out/NAME-OF-THE-LIBRARY"
        text = f"{field.description} (default {default})" if default != "" else field.description
        text = str(text).replace("%", "%%")
        title = group_of(field)
        if title not in groups:
            groups[title] = command.add_argument_group(title)
        group = groups[title]
        if name == positional:
            command.add_argument(name, metavar=name.upper(), help=text)
        elif kind is bool:
            group.add_argument(_option(name), action="store_true", help=text)
        else:
            group.add_argument(_option(name), metavar=metavar, help=text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def checked(arguments: dict[str, Any], call: type[C]) -> C:
    """The call from what was given, each value within its bounds."""
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return call.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        where = f"{_option(str(found['loc'][0]))} {found['input']!r}: " if found["loc"] else ""
        ways = [e for e in error.errors() if found["loc"] and e["loc"][:1] == found["loc"][:1]]
        said = [str(e.get("ctx", {}).get("error", e["msg"])) for e in ways or [found]]
        # What may be of two kinds is wrong in two ways.
        refuse(
            where + " or ".join([said[0], *(s.removeprefix("Input should be ") for s in said[1:])])
        )


def kept(call: ScreenCall) -> str:
    """What a run that was stopped leaves in its folder, and how to go on."""
    from mlff_core.store import open_store, place_of

    out = place_of(call.out)
    names = (name.rpartition("/")[2] for name in open_store(out).list("molecules"))
    n_parts = sum(name.startswith("part-") for name in names)
    if not n_parts:
        return "no shard was finished"
    shards = "1 finished shard is" if n_parts == 1 else f"{n_parts:,} finished shards are"
    how = "--append" if call.append else "--resume"
    return f"{shards} kept in {out}; {how} goes on from here"


def run_screen(call: ScreenCall, *, quiet: bool, as_json: bool) -> int:
    """Run the screen in this process; where PREFECT_API_URL names a server, as a flow run there.

    Returns:
        0, or 1 if the run failed.
    """
    try:
        glance(call)
    except MlffError as error:
        refuse(error)
    from flows.terminal import Terminal
    from mlff_core.store import place_of

    out = place_of(call.out)
    terminal = Terminal(quiet=quiet or as_json)
    signal.signal(signal.SIGINT, Stop(lambda: kept(call), terminal.hush))
    if "://" in call.library:  # another host may take its time
        terminal.tell(f"mlff-screen: opening {call.library}")
    try:
        if needs_prefect():
            run_on_server(call, terminal)
        else:
            from flows import run
            from flows.engines import engine_of

            engine = engine_of(call.engine, call.ray_address, call.workers)
            run.run_screen(call, engine, terminal)
    except Exception as error:
        terminal.close()
        if not terminal.begun and isinstance(error, MlffError | ValueError):
            refuse(error)
        if not terminal.ended:
            print(f"mlff-screen: the run failed: {on_one_line(error)}", file=sys.stderr)
            return 1
        # The tables are whole, and they need no server.
        print(f"mlff-screen: warning: no server was told: {on_one_line(error)}", file=sys.stderr)
        show(out, as_json=as_json, quiet=quiet)
        sys.stdout.flush()
        os._exit(0)  # or Prefect goes on for hours to tell what happened, each event for seconds
    show(out, as_json=as_json, quiet=quiet)
    return 0


def run_on_server(call: ScreenCall, terminal: "Terminal") -> None:
    """Run the flow in this process; its states, its log and its page are the server's."""
    from flows.plan import open_call

    open_call(call)  # before Prefect starts, which takes seconds: what is wrong is said at once
    from flows.screen import cancel_runs, screen
    from flows.watch import watched_by

    signal.signal(signal.SIGINT, Stop(lambda: kept(call), terminal.hush, cancel_runs))
    with watched_by(terminal):
        screen(**call.model_dump() | {"preset": "standard"})  # what it sets is in the others


def show(out: "Location", *, as_json: bool, quiet: bool) -> None:
    """Print what came of a screen."""
    from rich.console import Console

    from flows.summary import print_summary
    from mlff_core.tables import read_manifest

    manifest = read_manifest(out)
    assert manifest is not None
    if as_json:
        print(json_line({"out": str(out)} | asdict(manifest)))
    elif not quiet:
        print_summary(manifest, out, Console())


def run_strain(call: StrainCall, *, quiet: bool, as_json: bool) -> int:
    """Say how strained poses are; returns 0, or 1 if the run failed."""
    from flows.strain import command

    signal.signal(signal.SIGINT, Stop(lambda: "nothing was written"))
    try:
        return command(call, quiet=quiet, as_json=as_json)
    except MlffError as error:
        refuse(error)
    except Exception as error:
        print(f"mlff-screen: the run failed: {on_one_line(error)}", file=sys.stderr)
        return 1


def run_distill(call: DistillCall, *, quiet: bool, as_json: bool) -> int:
    """Distill in this process; where PREFECT_API_URL names a server, as a flow run there.

    Returns:
        0, or 1 if the run failed.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from flows import student
    from flows.terminal import Terminal
    from mlff_core.distill.recipe import read_recipe
    from mlff_core.library import open_library

    signal.signal(signal.SIGINT, Stop(lambda: "the same command goes on from here"))
    try:
        recipe = read_recipe(Path(call.recipe))
        open_library(call.table, recipe.molecules.column or None)
        student.check(call, recipe.student)
        on_server = needs_prefect()
    except (MlffError, ValueError, OSError) as error:
        refuse(error)
    try:
        if on_server:
            from flows.distill import distill

            found = distill(**call.model_dump())
        else:
            tell = Terminal(quiet=quiet or as_json).tell
            packaged, metrics = student.run_distill(call, student.as_it_is, tell)
            found = {"weights": str(packaged), "metrics": str(metrics)}
    except Exception as error:
        print(f"mlff-screen: the run failed: {on_one_line(error)}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(found))
    elif not quiet:
        console = Console()
        console.print(Markdown(student.report(Path(found["weights"]))))
        console.print(f"\nweights: {found['weights']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
