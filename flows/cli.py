"""The command line `mlff-screen`. Its options are the flow's parameters, word for word.

Exit status: 0, every record is accounted for (rejected and failed molecules are data); 1, the run
itself failed; 2, the call was wrong.
"""

import argparse
import inspect
import os
import signal
import sys
import typing
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Literal, NoReturn

import psutil
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mlff_core.errors import MlffError

#: Nothing of a run leaves the machine; a terminal shows the run, not the orchestration.
ENVIRONMENT = {
    # Threads that spin while they wait take the cores from the embedding processes: a force call
    # beside them took six times as long. Read when torch is imported, hence not later than here.
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    # The first start makes a database, and may share slow cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        refuse(message)


def refuse(message: object) -> NoReturn:
    """The call was wrong: say so in one line, leave with status 2."""
    print("mlff-screen:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    parser = Parser(prog="mlff-screen", description="SMILES -> relaxed 3D conformers in Parquet.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    run = commands.add_parser("run", help="screen a library", description="Screen a library.")
    add_flow_options(run, _screen_parameters())
    student = commands.add_parser(
        "distill", help="train a student", description="Teach a student what a teacher knows."
    )
    add_flow_options(student, _distill_parameters())
    for command in (run, student):
        command.add_argument("--verbose", action="store_true", help="show the flow's log")
    commands.add_parser("info", help="versions, device, model, and what is missing")
    arguments = vars(parser.parse_args(argv))
    command = arguments.pop("command")
    if command == "info":
        from flows.info import print_info

        return print_info()
    if arguments.pop("verbose"):
        os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"
    return run_screen(arguments) if command == "run" else run_distill(arguments)


def add_flow_options(
    parser: argparse.ArgumentParser, parameters: dict[str, inspect.Parameter]
) -> None:
    """Add an option for each parameter of a flow; what it reads is positional."""
    for name, parameter in parameters.items():
        field, kind = _field_of(parameter)
        help_text = (field.description or "").replace("%", "%%")
        option = "--" + name.replace("_", "-")
        if name in ("library", "table"):
            parser.add_argument(name, metavar=name.upper(), help=help_text)
        elif kind is bool:
            parser.add_argument(option, action="store_true", help=help_text)
        elif typing.get_origin(kind) is Literal:
            choices = "|".join(typing.get_args(kind))
            parser.add_argument(
                option, metavar=choices, help=f"{help_text} (default {parameter.default})"
            )
        else:
            default = "" if parameter.default is None else f" (default {parameter.default})"
            if name == "out" and "library" in parameters:
                default = " (default out/NAME-OF-THE-LIBRARY)"
            parser.add_argument(option, metavar=_metavar(kind), help=help_text + default)


def _screen_parameters() -> dict[str, inspect.Parameter]:
    # Prefect takes a second to import; --help and a wrong call of another kind do not need it.
    from flows.screen import screen

    return dict(inspect.signature(screen.fn).parameters)


def _distill_parameters() -> dict[str, inspect.Parameter]:
    from flows.distill import distill

    return dict(inspect.signature(distill.fn).parameters)


def _field_of(parameter: inspect.Parameter) -> tuple[FieldInfo, Any]:
    """A parameter's field and its bare type, None taken off."""
    annotated, field = typing.get_args(parameter.annotation)[:2]
    if isinstance(annotated, UnionType):
        annotated = next(t for t in typing.get_args(annotated) if t is not NoneType)
    return field, annotated


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X"}.get(kind, "TEXT")


def stop_at_once(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Leave on Ctrl-C. Files are whole at any moment, so there is nothing to wait for.

    Ctrl-C reaches Prefect's temporary server as well: an orderly end would wait for the shard on
    the device, and then fail to report it.
    """
    goes_on = "the same command" if "distill" in sys.argv[:2] else "--resume"
    print(f"\nmlff-screen: stopped; {goes_on} goes on from here", file=sys.stderr, flush=True)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def checked(arguments: dict[str, Any], parameters: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """The parameters of a flow from what was given, each within its bounds."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = parameter.default if arguments[name] is None else arguments[name]
        try:
            values[name] = TypeAdapter(parameter.annotation).validate_python(value)
        except ValidationError as error:
            found = error.errors()[0]
            refuse(f"--{name.replace('_', '-')} {value!r}: {found['msg']}")
    return values


def run_screen(arguments: dict[str, Any]) -> int:
    """Check the call, run the flow in this process, print the summary."""
    from rich.console import Console

    from flows.plan import make_plan
    from flows.screen import screen
    from flows.summary import print_summary
    from mlff_core.tables import read_manifest

    if arguments["out"] is None:
        arguments["out"] = str(Path("out") / Path(arguments["library"]).name.split(".")[0])
    parameters = checked(arguments, _screen_parameters())
    try:
        # Before Prefect starts, which takes seconds: what is wrong with a call is said at once.
        make_plan(**parameters).check_output()
    except (MlffError, ValueError) as error:
        refuse(error)
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        screen(**parameters)
    except Exception as error:
        print(f"mlff-screen: the run failed: {error}", file=sys.stderr)
        return 1
    manifest = read_manifest(Path(parameters["out"]))
    assert manifest is not None
    print_summary(manifest, Path(parameters["out"]), Console())
    return 0


def run_distill(arguments: dict[str, Any]) -> int:
    """Check the call, run the flow in this process, print what came out."""
    from rich.console import Console
    from rich.markdown import Markdown

    from flows.distill import check, distill, report
    from mlff_core.distill.recipe import read_recipe
    from mlff_core.library import open_library

    parameters = checked(arguments, _distill_parameters())
    try:
        recipe = read_recipe(Path(parameters["recipe"]))
        open_library(parameters["table"], recipe.molecules.column or None)
        given = {name: parameters[name] for name in ("teacher", "start", "device", "gpus")}
        check(student=recipe.student, **given)
    except (MlffError, ValueError, OSError) as error:
        refuse(error)
    signal.signal(signal.SIGINT, stop_at_once)
    try:
        found = distill(**parameters)
    except Exception as error:
        print(f"mlff-screen: the run failed: {error}", file=sys.stderr)
        return 1
    console = Console()
    console.print(Markdown(report(Path(found["weights"]))))
    console.print(f"\nweights: {found['weights']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
