"""Write molecules.npz: 256 conformers of drug-like molecules, 40 atoms on average.

    python benchmarks/make_molecules.py LIBRARY.smi

Every molecule of 30 to 50 atoms is embedded once (ETKDGv3, fixed seed) until there are enough;
then the last ones are exchanged until the mean is 40 atoms. Plain arrays, so that the benchmarks
that read them need no RDKit.
"""

import sys
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

N_MOLECULES, MEAN_ATOMS = 256, 40


def conformer(smiles: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Atomic numbers, positions in Å and charge; None where it does not fit or embed."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    mol = Chem.AddHs(mol)
    if not 30 <= mol.GetNumAtoms() <= 50:
        return None
    if rdDistGeom.EmbedMolecule(mol, randomSeed=7) != 0:
        return None
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int8)
    return numbers, mol.GetConformer().GetPositions(), Chem.GetFormalCharge(mol)


def main(library: Path) -> None:
    """Choose, embed, write."""
    chosen: list[tuple[np.ndarray, np.ndarray, int]] = []
    total = 0
    for line in library.read_text(encoding="utf-8").splitlines():
        if len(chosen) == N_MOLECULES:
            break
        found = conformer(line.split()[0])
        if found is None or abs(found[2]) > 1:
            continue
        # Keeps the running mean at 40: take what brings the total nearer to its line.
        excess = total - MEAN_ATOMS * len(chosen)
        if abs(excess) <= 10 or (len(found[0]) - MEAN_ATOMS) * excess < 0:
            chosen.append(found)
            total += len(found[0])
    sizes = np.array([len(numbers) for numbers, _, _ in chosen], np.int64)
    np.savez_compressed(
        Path(__file__).with_name("molecules.npz"),
        numbers=np.concatenate([numbers for numbers, _, _ in chosen]),
        positions=np.concatenate([x for _, x, _ in chosen]).astype(np.float32),
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        charge=np.array([q for _, _, q in chosen], np.int64),
    )
    print(f"{len(sizes)} molecules, {sizes.mean():.2f} atoms on average")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
