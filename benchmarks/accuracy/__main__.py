"""How good the student is against its teacher, and beside other methods.

    python benchmarks/accuracy teacher    --teacher FILE --held-out FILE --out OUT.json
        Forces and energies of held-out molecules against the teacher's.
    python benchmarks/accuracy far        --teacher FILE --held-out FILE --out OUT.json
        How much of the student's errors is electrostatics between atoms far apart.
    python benchmarks/accuracy members    --teacher FILE --held-out FILE --out OUT.json
        How far the teacher's own members are apart, beside the student's errors.
    python benchmarks/accuracy charges    --teacher FILE --held-out FILE --out OUT.json
        Partial charges and dipole moments against the teacher's, of a model that has some.
    python benchmarks/accuracy few_atoms  --teacher FILE --out OUT.json
        Bonds of small and of hypervalent molecules at the minima of both.
    python benchmarks/accuracy rare       --teacher FILE --held-out FILE --out OUT.json
        Errors on molecules with something that the training hardly saw, beside the others.
    python benchmarks/accuracy environments --teacher FILE --held-out FILE --counts C.parquet ...
        Errors by how often the training's table has the surroundings of the atoms.
    python benchmarks/accuracy minima     --teacher FILE --held-out FILE --out OUT.json
        Their conformers relaxed by both from the same start.
    python benchmarks/accuracy other_bonds --teacher FILE --held-out FILE --out OUT.json
        Which of them the student relaxes to other bonds, and whether the teacher does, too.
    python benchmarks/accuracy protomers  --teacher FILE --held-out FILE --out OUT.json
        Energies of other protonation states of these molecules, charged as no table has them.
    python benchmarks/accuracy torsions   --teacher FILE --held-out FILE --out OUT.json
        Their profiles along scans of one torsion each.
    python benchmarks/accuracy displaced  --held-out FILE --out OUT.json
        What the student makes of molecules whose atoms are far from where they belong.
    python benchmarks/accuracy nve        --held-out FILE --out OUT.json
        Drift of the total energy in constant-energy dynamics at 300 K, and bonds that broke.
    python benchmarks/accuracy conformers --out OUT.json
        Conformer energies of MMFF94, GFN2-xTB and the student against the teacher's, on
        conformers.npz (see make_conformers.py).

FILE of --teacher is what datasets/fetch_teacher.py prints; FILE of --held-out is a Parquet table
with the columns `smiles` and `charge`, of molecules that were not trained on. --model names other
weights than the shipped ones. Each command adds its part to OUT.json, or begins the file anew if
it is about other weights; give commands that run at once files of their own.
`benchmarks/model_card.py` makes the card from any number of such files.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.accuracy import (
    charges,
    conformers,
    displaced,
    environments,
    far,
    few_atoms,
    members,
    minima,
    nve,
    other_bonds,
    protomers,
    rare,
    teacher,
    torsions,
)
from benchmarks.accuracy.part import add_part, log, setting
from mlff_core.models.potential import load_potential

#: Each has `add_options(command)` and `measure(arguments, student)`, which returns its part.
COMMANDS: dict[str, ModuleType] = {
    "teacher": teacher,
    "far": far,
    "members": members,
    "charges": charges,
    "few_atoms": few_atoms,
    "minima": minima,
    "rare": rare,
    "environments": environments,
    "other_bonds": other_bonds,
    "protomers": protomers,
    "torsions": torsions,
    "displaced": displaced,
    "nve": nve,
    "conformers": conformers,
}


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--model", default="default")
        command.add_argument("--device", default="auto")
        command.add_argument("--backend", default="auto")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=7)
        module.add_options(command)
    arguments = parser.parse_args(words)
    torch.manual_seed(arguments.seed)
    student = load_potential(
        arguments.model,
        device=arguments.device,
        backend=arguments.backend,
        charges=arguments.command == "charges",
    )
    part = COMMANDS[arguments.command].measure(arguments, student)
    add_part(arguments.out, arguments.command, {**part, **setting(student)}, student)
    log(f"{arguments.command} done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
