"""Make crystal_ligands.sdf.gz: ligands with the coordinates that a crystal structure gives them.

    pip install biotite
    python benchmarks/embedding/make_crystal_ligands.py [--ligands N] [--macrocycles N]

The source is the Chemical Component Dictionary of the wwPDB, free of copyright (CC0), as biotite
(BSD 3-clause) carries it: of each component the "model" coordinates, which are those of one entry
of the PDB. Stereo is that of the coordinates. The dictionary tells no resolution, so ligands whose
own bonds or angles are far from any bond or angle are left out, as is what shows no density in
part, has charges over one, or is not of the elements of drugs. What is left is drawn at random.
"""

import argparse
import gzip
import io
import random
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom, rdMolDescriptors
from rdkit.Geometry import Point3D

HERE = Path(__file__).parent
ORDERS = {
    "SING": Chem.BondType.SINGLE,
    "DOUB": Chem.BondType.DOUBLE,
    "TRIP": Chem.BondType.TRIPLE,
}
ELEMENTS = {"H", "C", "N", "O", "F", "S", "P", "CL", "BR"}
#: Heavy atoms and rotatable bonds of a ligand.
HEAVY, ROTATABLE = (12, 40), (2, 12)
#: By how much in Å a bonded pair, and any other, may be outside RDKit's bounds.
BOND_ERROR, OTHER_ERROR = 0.1, 0.3
MACROCYCLE = 9


def components() -> Iterator[Chem.Mol]:
    """Every component whose model coordinates are complete, without hydrogens."""
    from biotite.structure.io.pdbx import BinaryCIFFile

    with resources.as_file(resources.files("biotite.structure.info")) as folder:
        block = BinaryCIFFile.read(folder / "components.bcif")["components"]
    about, atoms, bonds = (block[f"chem_comp{name}"] for name in ("", "_atom", "_bond"))
    wanted = (
        (about["pdbx_model_coordinates_missing_flag"].as_array(str) == "N")
        & (about["pdbx_release_status"].as_array(str) == "REL")
        & (about["type"].as_array(str) == "NON-POLYMER")
    )
    entry = about["pdbx_model_coordinates_db_code"].as_array(str, "")
    known = {
        name: code
        for name, code, ok in zip(about["id"].as_array(str), entry, wanted, strict=True)
        if ok and len(code) == 4
    }
    names, symbols = atoms["atom_id"].as_array(str), atoms["type_symbol"].as_array(str)
    charges = atoms["charge"].as_array(int, 0)
    x = np.stack([atoms[f"model_Cartn_{k}"].as_array(float, np.nan) for k in "xyz"], 1)
    ends = [bonds[f"atom_id_{k}"].as_array(str) for k in (1, 2)]
    orders = bonds["value_order"].as_array(str)
    own_bonds = ranges(bonds["comp_id"].as_array(str))
    for name, (first, last) in ranges(atoms["comp_id"].as_array(str)).items():
        its = slice(first, last)
        if name not in known or name not in own_bonds or not set(symbols[its]) <= ELEMENTS:
            continue
        mol, place = Chem.RWMol(), {}
        heavy = [k for k in range(first, last) if symbols[k] != "H"]
        conformer = Chem.Conformer(len(heavy))
        for k in heavy:
            atom = Chem.Atom(symbols[k].capitalize())
            atom.SetFormalCharge(int(charges[k]))
            place[names[k]] = mol.AddAtom(atom)
            conformer.SetAtomPosition(place[names[k]], Point3D(*x[k].tolist()))
        for k in range(*own_bonds[name]):
            pair = ends[0][k], ends[1][k]
            if all(end in place for end in pair):
                mol.AddBond(*(place[end] for end in pair), ORDERS[orders[k]])
        mol.AddConformer(conformer, assignId=True)
        mol.SetProp("_Name", name)
        mol.SetProp("PDB entry", known[name])
        yield mol.GetMol()


def ranges(names: np.ndarray) -> dict[str, tuple[int, int]]:
    """First row and end of each component, whose rows follow each other."""
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
    return {str(names[a]): (a, b) for a, b in pairwise(starts) if names[a:b].size}


def is_sound(mol: Chem.Mol) -> bool:
    """Whether a ligand is a drug-like molecule with plausible coordinates; assigns its stereo."""
    low, high = HEAVY
    if not low <= mol.GetNumAtoms() <= high or not np.isfinite(positions(mol)).all():
        return False
    if Chem.SanitizeMol(mol, catchErrors=True) or len(Chem.GetMolFrags(mol)) != 1:
        return False
    fewest, most = ROTATABLE
    if not fewest <= rdMolDescriptors.CalcNumRotatableBonds(mol) <= most:
        return False
    if abs(Chem.GetFormalCharge(mol)) > 1 or any(
        a.GetNumRadicalElectrons() for a in mol.GetAtoms()
    ):
        return False
    Chem.AssignStereochemistryFrom3D(mol)
    x = positions(mol)
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    bounds = rdDistGeom.GetMoleculeBoundsMatrix(Chem.AddHs(mol))[: len(x), : len(x)]
    upper, lower = np.triu(bounds, 1), np.tril(bounds, -1).T
    outside = np.triu(np.maximum(distances - upper, lower - distances), 1)
    bonded = Chem.GetAdjacencyMatrix(mol) > 0
    return bool(outside[bonded].max() < BOND_ERROR and outside.max() < OTHER_ERROR)


def positions(mol: Chem.Mol) -> np.ndarray:
    """Å [n_atoms, 3]."""
    return mol.GetConformer().GetPositions()


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ligands", type=int, default=200)
    parser.add_argument("--macrocycles", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE / "crystal_ligands.sdf.gz")
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    every = list(components())
    random.Random(20).shuffle(every)
    chains: list[Chem.Mol] = []
    macrocycles: list[Chem.Mol] = []
    seen: set[str] = set()
    for mol in every:
        if len(chains) >= options.ligands and len(macrocycles) >= options.macrocycles:
            break
        if not is_sound(mol):
            continue
        smiles = Chem.MolToSmiles(mol)
        wide = max(map(len, mol.GetRingInfo().AtomRings()), default=0) >= MACROCYCLE
        kind, most = (macrocycles, options.macrocycles) if wide else (chains, options.ligands)
        if smiles not in seen and len(kind) < most:
            seen.add(smiles)
            kind.append(mol)
    text = io.StringIO()
    writer = Chem.SDWriter(text)
    for mol in [*chains, *macrocycles]:
        writer.write(mol)
    writer.close()
    options.out.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    print(f"{len(chains)} ligands and {len(macrocycles)} macrocycles in {options.out}")


if __name__ == "__main__":
    main()
