"""What befalls a command before it begins: a clock that jumps, a disk or a memory that is small."""

import os
import random
import resource
import runpy
import signal
import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import flows.append
import flows.compute
import flows.plan
import flows.run
from flows.call import ScreenCall


def clock_that_jumps() -> None:
    """The time of day is off by up to a year either way, by another amount each time."""
    years = random.Random(4)
    true = time.time

    def jump() -> float:
        return years.choice([-365.0, -1.0, 0.0, 1.0, 365.0]) * 86_400

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            at = datetime.now(tz or UTC) + timedelta(seconds=jump())
            return cls.fromtimestamp(at.timestamp(), tz)

    time.time = lambda: true() + jump()  # type: ignore[assignment]
    for module in (flows.append, flows.plan, flows.run):
        module.datetime = Jumping  # type: ignore[attr-defined]


def files_no_larger_than(n_bytes: int) -> None:
    """Writing on fails, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))


def memory_no_larger_than(n_bytes: int) -> None:
    """What its workers ask for beyond these bytes of address space is refused."""
    import mlff_core.chem.pool as pool

    start = pool.subprocess.Popen

    def limited(*arguments: object, **more: object) -> object:
        return start(
            *arguments,  # type: ignore[call-overload]
            **more,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes)),
        )

    pool.subprocess.Popen = limited  # type: ignore[misc,assignment]


def die_at_write(shard: int) -> None:
    """Power is lost when this shard is written: the command and its children are gone at once."""
    import psutil

    write = flows.compute.write

    def fatal(number: int, **references: object) -> object:
        if number == shard:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(number, **references)  # type: ignore[arg-type]

    flows.compute.write = fatal  # type: ignore[assignment]


#: Most atoms that a card of `bad_molecules` has memory for.
ROOM = 40


def suffer(record: int, input_id: str, smiles: str, settings: object) -> object:
    """In a process that embeds: what befalls the molecules of these names."""
    import mlff_core.chem.prepare as prepare

    if input_id == "hangs":
        time.sleep(600)
    if input_id == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    embed = prepare.embed
    if input_id == "hungry":
        prepare.embed = lambda *a: bytearray(1 << 50)  # type: ignore[assignment,return-value]
    try:
        molecule = prepare.prepare(record, input_id, smiles, settings)  # type: ignore[arg-type]
    finally:
        prepare.embed = embed
    if input_id == "explodes":
        molecule.positions = molecule.positions * 0.02
    return molecule


def bad_molecules() -> None:
    """Molecules suffer what their names say, and a card has room for a few atoms only."""
    import torch

    from mlff_core.chem.pool import EmbeddingPool
    from mlff_core.models.potential import Potential

    EmbeddingPool.__init__.__kwdefaults__["prepare"] = suffer
    evaluate = Potential.evaluate

    def cramped(self: Potential, batch: object) -> object:
        if batch.n_atoms > ROOM:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("no room")
        return evaluate(self, batch)  # type: ignore[arg-type]

    Potential.evaluate = cramped  # type: ignore[method-assign,assignment]


def on_server(url: str, home: str) -> None:
    """The command is a run of the flow on a server."""
    os.environ |= {"PREFECT_API_URL": url, "PREFECT_HOME": home}


def with_own_server(home: str) -> None:
    """The command calls the flow where there is no server: Prefect starts one, for this run."""
    # On a host that is busy with much else the server takes its time to start.
    os.environ |= {
        "PREFECT_HOME": home,
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "500",
    }

    def run_as_flow(call: ScreenCall, engine: object, watcher: object) -> None:
        flows.run.run_screen = run_screen
        from flows.screen import screen

        screen(**call.model_dump() | {"preset": "standard"})

    run_screen = flows.run.run_screen
    flows.run.run_screen = run_as_flow  # type: ignore[assignment]


def note_connections(file: str, then: str | None = None, *arguments: object) -> None:
    """Write down what this process and those that it starts connect to beyond this host."""
    audit = Path(__file__).with_name("audit")
    os.environ |= {
        "NOTE_CONNECTIONS": file,
        "PYTHONPATH": f"{audit}{os.pathsep}{os.environ['PYTHONPATH']}",
    }
    runpy.run_path(str(audit / "sitecustomize.py"))
    if then is not None:
        globals()[then](*arguments)


def damaged_home(home: str) -> None:
    """Prefect's folder is a file, and importing Prefect ends the command."""
    sys.modules["prefect"] = None  # type: ignore[assignment]
    os.environ |= {"PREFECT_HOME": home, "HOME": home}
