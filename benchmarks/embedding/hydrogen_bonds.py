"""Are the lowest hydrogen-bonded minima among 20 conformers? Against 150 starts made otherwise.

    python benchmarks/embedding/hydrogen_bonds.py [--starts N] [--model small] [--json FILE]

Half of the starts are distance geometry without knowledge, half are ETKDGv3; in all of them each
polar hydrogen is then turned to a random angle. Both sets are relaxed by the same model, and what
came to other bonds or stereo is left out. Five CPU minutes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.chem.topology import Topology, rearrangements
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL

MOLECULES = [
    "OC(=O)c1ccccc1C(O)=O",
    "OC(=O)/C=C\\C(O)=O",
    "OC(=O)CC(O)=O",
    "OC(=O)C(CC)(CC)C(O)=O",
    "C[C@H](O)C(=O)O",
    "Oc1ccccc1O",
    "NC(=O)c1ccccc1O",
    "CC(=O)c1ccccc1O",
    "Nc1ccccc1C(O)=O",
    "OCCO",
    "OCCCO",
    "O[C@H]1CCCC[C@@H]1O",
    "OC(=O)C(O)=O",
    "OC(=O)CCC(O)=O",
    "OC(=O)[C@H](O)[C@@H](O)C(O)=O",
    "OC(=O)c1ccccc1O",
    "OC(=O)c1c(O)cccc1O",
    "NC(=O)c1ccccc1C(O)=O",
    "OC(=O)c1cccnc1C(O)=O",
    "OC(=O)c1ccccn1",
    "CC(=O)C(O)=O",
    "NCC(O)=O",
    "OC[C@H](N)C(O)=O",
    "OCCN",
    "CNC(=O)/C=C\\C(O)=O",
    "OC(=O)c1cccc2cccc(C(O)=O)c12",
    "OC(=O)[C@@]1(C)CC[C@H](C(O)=O)C1(C)C",
    "OC(=O)c1cccc(C(O)=O)c1C(O)=O",
    "OCC(O)CO",
    "COc1ccccc1C(O)=O",
    "OC(=O)CC(O)(CC(O)=O)C(O)=O",
    "OC(=O)CNC(=O)c1ccccc1",
]
#: An atom, the one that holds the hydrogen, and the hydrogen: X-H about the bond before it.
POLAR = Chem.MolFromSmarts("[*]~[*;!#1]-[O,S,N;X2,X3]-[#1]")


def many_starts(smiles: str, n: int) -> NDArray[np.float64]:
    """Geometries [n, n_atoms, 3] that owe nothing to how the product starts."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    plain = rdDistGeom.EmbedParameters()
    plain.randomSeed, plain.maxIterations, plain.useRandomCoords = 99, 100, True
    plain.enforceChirality = True
    rdDistGeom.EmbedMultipleConfs(mol, n // 2, plain)
    knowing = rdDistGeom.ETKDGv3()
    knowing.randomSeed, knowing.clearConfs = 77, False
    rdDistGeom.EmbedMultipleConfs(mol, n - n // 2, knowing)
    turns = {match[1:3]: match for match in mol.GetSubstructMatches(POLAR)}
    random = np.random.default_rng(5)
    for conformer in mol.GetConformers():
        for match in turns.values():
            if mol.GetAtomWithIdx(match[2]).GetAtomicNum() != 7:
                angle = float(random.choice(np.arange(0, 360, 30)))
                rdMolTransforms.SetDihedralDeg(conformer, *match, angle)
    return np.array([conformer.GetPositions() for conformer in mol.GetConformers()])


def lowest(molecule: PreparedMolecule, starts: NDArray, potential: Potential) -> float:
    """Lowest energy in eV to which starts [n, n_atoms, 3] of a molecule relax."""
    ended = relax_conformers(
        [(molecule.numbers, x.astype(np.float32), molecule.charge or 0) for x in starts],
        potential,
        RelaxSettings(max_steps=400),
    )
    bonds = Topology(molecule.numbers, molecule.bonds, molecule.chirality, molecule.double_bonds)
    changes = rearrangements(
        [np.asarray(one.positions).reshape(-1, 3) for one in ended], [bonds] * len(ended)
    )
    return min(
        one.energy
        for one, change in zip(ended, changes, strict=True)
        if one.status == ConformerStatus.CONVERGED and change is None
    )


def main() -> None:
    """Compare both for each molecule and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=150)
    parser.add_argument("--model", default="small")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    potential = load_potential(options.model, device="cpu")
    rows = []
    for smiles in MOLECULES:
        own = prepare(0, None, smiles, ChemistrySettings(n_conformers=20))
        of_many = lowest(own, many_starts(own.smiles or smiles, options.starts), potential)
        of_twenty = lowest(own, own.conformers(), potential)
        above = (of_twenty - of_many) * EV_KCAL_MOL
        rows.append(
            {
                "smiles": own.smiles,
                "starts_left_of_20": len(own.conformers()),
                "lowest_of_many_ev": round(of_many, 5),
                "lowest_of_20_above_it_kcal_mol": round(above, 2),
            }
        )
        print(f"{own.smiles:45s} {len(own.conformers()):3d} {above:+6.2f} kcal/mol", flush=True)
    if options.json:
        report = {"model": potential.sha256, "starts": options.starts, "molecules": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
