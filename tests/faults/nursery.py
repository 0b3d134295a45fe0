"""A process that has imported all that a command needs, and forks one at a word.

Each line of its input is a JSON object: `argv`, what the command is given; `log`, the file of what
it says, beside which `.status` appears with its exit status; `prelude`, the name of a function of
preludes.py that it calls first, and `arguments`, what with. It answers with the command's process.
"""

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import preludes

import mlff_core.append
import mlff_core.models.potential
import mlff_core.moves.held
import mlff_core.moves.relax  # noqa: F401
from flows.cli import main


def run(argv: list[str], log: Path, prelude: str | None, arguments: list[object]) -> int:
    """In a process of its own: be the command; returns its exit status."""
    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        if prelude is not None:
            getattr(preludes, prelude)(*arguments)
        return main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70  # a traceback: nobody may ever see one


def serve() -> None:
    """Fork what is asked for, until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        log = Path(asked["log"])
        told, tell = os.pipe()
        if not os.fork():  # a guardian, who waits for it
            command = os.fork()
            if not command:
                status = run(asked["argv"], log, asked["prelude"], asked["arguments"])
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
            os.write(tell, str(command).encode())
            os.close(tell)
            _, how = os.waitpid(command, 0)
            hidden = log.with_suffix(".ending")
            hidden.write_text(str(os.waitstatus_to_exitcode(how)))
            hidden.rename(log.with_suffix(".status"))
            os._exit(0)
        os.close(tell)
        print(os.read(told, 32).decode(), flush=True)
        os.close(told)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # guardians that have ended
                pass


if __name__ == "__main__":
    print("ready", flush=True)
    serve()
