"""What becomes of zwitterions in vacuum: relaxed freely, and with protons of charged groups held.

    python benchmarks/zwitterions.py SMILES.parquet|.smi [--molecules 1000]
        [--model default|small|PATH] [--device auto|cpu|cuda] [--fmax 0.05] [--max-steps 300]
        [--seed 1] [--json FILE]

Draws molecules that have a cation with a hydrogen on it and an anion elsewhere, embeds one
conformer of each, relaxes all of them freely, and those that lost the proton of a charged group
again with its bond held, as a screen does. Counts how both ended and says what the held ones cost.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rdkit import Chem, rdBase

from mlff_core.chem.held import SANE, stretched
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.topology import rearranged
from mlff_core.models.potential import load_potential
from mlff_core.moves.held import relax_where_protons_moved
from mlff_core.moves.relax import Relaxed, relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL


def zwitterions(path: Path, seed: int) -> Iterator[str]:
    """SMILES of a file that are zwitterions with a proton to lose, in random order."""
    if path.suffix == ".parquet":
        smiles = pq.read_table(path, columns=["smiles"])["smiles"].to_pylist()
    else:
        smiles = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    random.Random(seed).shuffle(smiles)
    for text in smiles:
        if "H" not in text or "+]" not in text or "-]" not in text:
            continue
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(text)
        if mol is not None and _is_zwitterion(mol):
            yield text


def _is_zwitterion(mol: Chem.Mol) -> bool:
    alone = [
        atom
        for atom in mol.GetAtoms()
        if atom.GetFormalCharge()
        and all(n.GetFormalCharge() * atom.GetFormalCharge() >= 0 for n in atom.GetNeighbors())
    ]
    return any(a.GetFormalCharge() > 0 and a.GetTotalNumHs() for a in alone) and any(
        a.GetFormalCharge() < 0 for a in alone
    )


def ending(molecule: PreparedMolecule, end: Relaxed) -> str:
    """How a conformer ended, in the words of the tables."""
    if end.status not in (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS):
        return str(end.status)
    topology = (molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    changed = rearranged(end.positions, *topology)
    if changed is None:
        return str(end.status)
    lost = stretched(end.positions, molecule.numbers, molecule.held_bonds)
    return f"rearranged ({'proton of a charged group' if lost else 'something else'})"


def main() -> None:
    """Print the counts; write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("smiles", type=Path)
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--max-steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    found = zwitterions(arguments.smiles, arguments.seed)
    records = [(k, None, text) for k, text in zip(range(arguments.molecules), found, strict=False)]
    with EmbeddingPool(ChemistrySettings()) as pool:
        molecules = [m for m in pool.map(records) if m.status == "ok"]
    potential = load_potential(arguments.model, device=arguments.device)
    conformers = [(m.numbers, m.conformers()[0], m.charge or 0) for m in molecules]
    settings = RelaxSettings(fmax=arguments.fmax, max_steps=arguments.max_steps)
    began = time.perf_counter()
    free = relax_conformers(conformers, potential, settings)
    free_s = time.perf_counter() - began
    with_bonds = [(*c, m.held_bonds) for c, m in zip(conformers, molecules, strict=True)]
    began = time.perf_counter()
    held = relax_where_protons_moved(with_bonds, free, potential, settings)
    held_s = time.perf_counter() - began

    before = [ending(m, end) for m, end in zip(molecules, free, strict=True)]
    after = [ending(m, held.get(k, free[k])) for k, m in enumerate(molecules)]
    kept = [k for k in held if after[k] == ConformerStatus.CONVERGED]
    acting = [
        stretched(held[k].positions, molecules[k].numbers, molecules[k].held_bonds, SANE)
        for k in kept
    ]
    above = [(held[k].energy - free[k].energy) * EV_KCAL_MOL for k in kept]
    answer = {
        "model": potential.name,
        "device": str(potential.device),
        "drawn": len(records),
        "embedded": len(molecules),
        "free": dict(Counter(before).most_common()),
        "held": dict(Counter(after).most_common()),
        "relaxed_again": len(held),
        "converged_held": len(kept),
        "of_these_without_any_spring_at_the_end": sum(n == 0 for n in acting),
        "kcal_mol_above_the_moved_proton_median_min_max": [
            round(float(value), 2) for value in (np.median(above), min(above), max(above))
        ]
        if above
        else None,
        "steps_median_free_and_held": [
            float(np.median([end.n_steps for end in ends])) if ends else None
            for ends in (free, list(held.values()))
        ],
        "seconds_free_and_held": [round(free_s, 1), round(held_s, 1)],
        "still_rearranged": [
            [molecules[k].smiles, before[k], after[k]]
            for k in range(len(molecules))
            if after[k].startswith("rearranged")
        ][:50],
    }
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
