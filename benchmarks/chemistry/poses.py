"""How many ligands have a conformer near the crystal's, before and after relaxation, by rotors.

    python benchmarks/chemistry/poses.py [--preset quick] [--conformers N] [--ligands 60]

The ligands are those of `embedding/crystal_ligands.sdf.gz`, macrocycles left out; each is embedded
by RDKit with as many conformers as the preset has, or N, and relaxed with its model and fmax, in
vacuum. RMSD of the heavy atoms to the crystal's conformer, the nearest of the first 1, 5, ... of
them. A ligand without a conformer counts as far away. About 0.4 s of a core a conformer with the
small model, 1 s with the default one.

Results: benchmarks/results/poses.json, by preset or number of conformers
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from flows.call import PRESETS, ScreenCall
from mlff_core import load_potential
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import ConformerStatus, MoleculeStatus

BENCHMARKS = Path(__file__).parents[1]
sys.path.insert(0, str(BENCHMARKS / "embedding"))
from recovery import crystal_ligands, nearest  # noqa: E402

#: Rotatable bonds of a group of ligands.
GROUPS = ((0, 4), (5, 8), (9, 99))
#: Conformers of which the nearest is looked for.
FIRST = (1, 5, 10, 20, 30, 100)
NEAR = 1.0


def distances(call: ScreenCall, crystals: list[Chem.Mol], device: str) -> list[dict[str, Any]]:
    """Of each ligand its rotatable bonds, and Å of each conformer before and after relaxation."""
    assert isinstance(call.conformers, int)
    settings = ChemistrySettings(n_conformers=call.conformers)
    rows, starts, owners = [], [], []
    for k, crystal in enumerate(crystals):
        molecule = prepare(k, None, Chem.MolToSmiles(crystal), settings)
        ok = molecule.status == MoleculeStatus.OK
        positions = molecule.positions if ok else np.empty((0, 0, 3))
        before = nearest(crystal, molecule.smiles or "", list(positions)) if ok else []
        rows.append({
            "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds(crystal),
            "before": np.asarray(before, float), "after": np.full(len(positions), np.inf),
        })  # fmt: skip
        for place, x in enumerate(positions):
            starts.append((np.asarray(molecule.numbers), x, int(molecule.charge)))
            owners.append((k, place, molecule.smiles or ""))
    potential = load_potential(call.model, device=device)
    relaxation = RelaxSettings(fmax=call.fmax, max_steps=call.max_steps)
    relaxed = relax_conformers(starts, potential, relaxation)
    for (k, place, smiles), end in zip(owners, relaxed, strict=True):
        if end.status == ConformerStatus.CONVERGED:
            rows[k]["after"][place] = nearest(crystals[k], smiles, [end.positions])[0]
    return rows


def share(rows: list[dict[str, Any]], when: str, n: int) -> float:
    """Per cent of the ligands of which one of the first n conformers is near."""
    best: NDArray[np.float64] = np.array([row[when][:n].min(initial=np.inf) for row in rows])
    return round(100 * float(np.mean(best < NEAR)), 1)


def summary(rows: list[dict[str, Any]], n_conformers: int) -> list[dict[str, Any]]:
    """A row for each group of ligands, and one for all."""
    found = []
    for low, high in (*GROUPS, (0, 99)):
        own = [row for row in rows if low <= row["rotatable_bonds"] <= high]
        if not own:
            continue
        found.append({
            "rotatable_bonds": [low, high],
            "ligands": len(own),
            "within_1_percent": {
                str(n): {when: share(own, when, n) for when in ("before", "after")}
                for n in FIRST if n <= n_conformers
            },
        })  # fmt: skip
    return found


def main() -> int:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quick", choices=list(PRESETS))
    parser.add_argument("--conformers", type=int)
    parser.add_argument("--ligands", type=int, default=60)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results/poses.json")
    arguments = parser.parse_args()
    more = {} if arguments.conformers is None else {"conformers": arguments.conformers}
    call = ScreenCall(library="crystal_ligands", preset=arguments.preset, **more)
    rows = distances(call, crystal_ligands(arguments.ligands)["ligands"], arguments.device)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    is_preset = arguments.conformers is None
    name = arguments.preset if is_preset else f"{call.conformers} conformers"
    known[name] = {
        "preset": arguments.preset if is_preset else None, "conformers": call.conformers,
        "model": call.model, "fmax": call.fmax, "groups": summary(rows, int(call.conformers or 1)),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known[name], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
