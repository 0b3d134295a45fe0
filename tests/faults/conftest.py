"""What the tests of faults share: commands that start at once, and a run that nothing befell."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from commands import Command, Nursery

#: Records of the library, and shards that they are in.
N_RECORDS = 24
SHARD_SIZE = 2


@dataclass
class Screen:
    """A small screen that can be run again and again.

    Attributes:
        nursery: Starts it.
        library: 24 small molecules.
        undisturbed: The tables that it makes where nothing befalls it.
        seconds: How long that took.
        options: All but the folder.
    """

    nursery: Nursery
    library: Path
    undisturbed: Path
    seconds: float
    options: list[str]

    def start(self, out: Path, *more: object, **prelude: object) -> Command:
        """Start it into a folder."""
        return self.nursery.start(
            "run", self.library, "--out", out, *self.options, *more, **prelude
        )


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Screen]:
    """Start it as often as you like; the first run is undisturbed."""
    import time

    folder = tmp_path_factory.mktemp("screen")
    library = folder / "library.smi"
    library.write_text("".join(f"{'C' * (3 + n % 8)}O m{n}\n" for n in range(N_RECORDS)))
    options = ["--model", str(small_model), "--shard-size", str(SHARD_SIZE), "--max-steps", "3"]
    options += ["--device", "cpu", "--workers", "2"]
    with Nursery(folder) as nursery:
        made = Screen(nursery, library, folder / "undisturbed", 0.0, options)
        begun = time.monotonic()
        command = made.start(made.undisturbed)
        assert command.wait() == 0, command.said()
        made.seconds = time.monotonic() - begun
        yield made
