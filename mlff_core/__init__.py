"""The science and the speed: molecules, a PaiNN potential, relaxation. Imports no Prefect.

Each line may import from those above it, and none from those below:

units.py        Å, eV, eV/Å, amu, and what they are in other units
errors.py       exceptions that a caller may want to catch
elements.py     symbols, covalent radii, atomic weights
status.py       the words of the tables
shipped.py      libraries and recipes that come with the code, by name
interrupts.py   Ctrl-C in processes that do not handle it
cores.py        how many cores this process may keep busy
store/          where results lie, and how a file gets its final name
schema.py       every column of the tables, declared once
arrow.py        rows as Arrow tables and back
weights/        the shipped models
chem/           SMILES to checked molecules with starting geometries
library/        libraries of molecules in five formats
tables/         the tables that a run leaves
charge.py       total charges and spins, as people write them
arrays.py       molecules of ASE, of RDKit and of people as arrays
batch.py        molecules of any sizes, flat
neighbors.py    pairs of atoms within the cutoff
buckets.py      size classes, and how many molecules of each are computed at once
embedding/      starting geometries of many molecules at once, on a card
ops/            PaiNN's operators: their plain meaning, and the fast ones beside it
models/         what computes energies and forces
moves/          relaxation and dynamics
calculator.py   the force field for ASE
tune.py         measuring which tiles of the kernels are fastest on a card
kernels.py      compiling the kernels of a screen before it begins
properties/     what a molecule's conformers tell together, and what is computed of them besides
outcome.py      what came of relaxed conformers: judged, ranked, put in words
shard.py        one shard of a library through its steps
additions.py    stages that add columns to a relaxed shard: water, the teacher
append.py       which structures of a library the tables do not have
screening.py    some molecules through the same steps, in memory
distill/        teaching PaiNN what a large potential knows
testing.py      what tests share

Names are resolved on first use, because the processes that embed molecules import
`mlff_core.chem` and must not pay for torch.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlff_core.batch import MolBatch
    from mlff_core.calculator import PaiNNCalculator
    from mlff_core.models.ase_force_field import AseForceField
    from mlff_core.models.force_field import ForceField, Outputs
    from mlff_core.models.potential import Potential, load_potential
    from mlff_core.moves.dynamics import Dynamics
    from mlff_core.moves.relax import RelaxResult, relax
    from mlff_core.moves.settings import RelaxSettings
    from mlff_core.moves.trajectory import write_trajectory
    from mlff_core.screening import ScreenedMolecule, screen_mols

# Threads that spin while they wait take the cores from all others: on a busy machine a force call
# of benzene took eight times as long. Read when torch is imported, hence not later than here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "AseForceField": "mlff_core.models.ase_force_field",
    "Dynamics": "mlff_core.moves.dynamics",
    "ForceField": "mlff_core.models.force_field",
    "MolBatch": "mlff_core.batch",
    "Outputs": "mlff_core.models.force_field",
    "PaiNNCalculator": "mlff_core.calculator",
    "Potential": "mlff_core.models.potential",
    "RelaxResult": "mlff_core.moves.relax",
    "RelaxSettings": "mlff_core.moves.settings",
    "ScreenedMolecule": "mlff_core.screening",
    "load_potential": "mlff_core.models.potential",
    "relax": "mlff_core.moves.relax",
    "screen_mols": "mlff_core.screening",
    "write_trajectory": "mlff_core.moves.trajectory",
}

__all__ = [
    "AseForceField",
    "Dynamics",
    "ForceField",
    "MolBatch",
    "Outputs",
    "PaiNNCalculator",
    "Potential",
    "RelaxResult",
    "RelaxSettings",
    "ScreenedMolecule",
    "load_potential",
    "relax",
    "screen_mols",
    "write_trajectory",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("mlff-screen")
    if name not in _HOME:
        raise AttributeError(f"module 'mlff_core' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
