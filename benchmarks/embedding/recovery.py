"""How near conformers come to the one that a crystal structure shows: heavy atoms, best match."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from references import Missing, Reference

from mlff_core.chem.superpose import aligned_rmsd
from mlff_core.embedding import embed_molecules

LIGANDS = Path(__file__).parent / "crystal_ligands.sdf.gz"
#: Ways to lay a symmetric molecule on itself that are tried.
MOST_MATCHES = 256
#: Å: nearer than this is "recovered", as in most comparisons of conformers.
RECOVERED = (0.5, 1.0, 2.0)
MACROCYCLE = 9


def crystal_ligands(n: int) -> dict[str, list[Chem.Mol]]:
    """The first n of each kind of ligands, without hydrogens, with their crystal's coordinates."""
    kinds: dict[str, list[Chem.Mol]] = {"ligands": [], "macrocycles": []}
    with gzip.open(LIGANDS) as file:
        for mol in Chem.ForwardSDMolSupplier(file):
            Chem.AssignStereochemistryFrom3D(mol)
            widest = max(map(len, mol.GetRingInfo().AtomRings()), default=0)
            kinds["macrocycles" if widest >= MACROCYCLE else "ligands"].append(mol)
    return {kind: own[:n] for kind, own in kinds.items()}


def skeleton(mol: Chem.Mol) -> Chem.Mol:
    """Heavy atoms and what is bonded to what: all that two drawings of a carboxylate share."""
    plain = Chem.RWMol()
    heavy = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    place = {atom.GetIdx(): plain.AddAtom(Chem.Atom(atom.GetAtomicNum())) for atom in heavy}
    for bond in mol.GetBonds():
        pair = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if all(end in place for end in pair):
            plain.AddBond(place[pair[0]], place[pair[1]], Chem.BondType.SINGLE)
    for atom in plain.GetAtoms():
        atom.SetNoImplicit(True)
    plain.UpdatePropertyCache(strict=False)
    return plain.GetMol()


def nearest(crystal: Chem.Mol, smiles: str, positions: Sequence[NDArray]) -> NDArray:
    """Å from the crystal's conformer to each geometry of `smiles` with its hydrogens behind."""
    mol = Chem.MolFromSmiles(smiles)
    matches = skeleton(crystal).GetSubstructMatches(
        skeleton(mol), uniquify=False, maxMatches=MOST_MATCHES
    )
    x = crystal.GetConformer().GetPositions()
    heavy = mol.GetNumAtoms()
    found = np.full(len(positions), np.inf)
    for match in matches:
        own = aligned_rmsd([x[list(match)]] * len(positions), [p[:heavy] for p in positions])
        found = np.minimum(found, own)
    return found


def recovered(
    crystals: Sequence[Chem.Mol],
    references: Sequence[Reference | Missing],
    n_conformers: int,
    lowest_of: Sequence[int],
    device: torch.device,
) -> dict:
    """Both embedders: RMSD to the nearest of so many conformers, as embedded."""
    pairs = [(c, r) for c, r in zip(crystals, references, strict=True) if isinstance(r, Reference)]
    embedded = embed_molecules(
        [r.constraints for _, r in pairs],
        n_conformers,
        range(len(pairs)),
        device,
        numbers=[r.numbers for _, r in pairs],
    )
    result: dict = {"ligands": len(crystals), "embedded_by_etkdg": len(pairs)}
    for name, sets in (
        ("etkdg", [[*r.positions] for _, r in pairs]),
        ("card", [[*x[c == 0]] for x, c in zip(embedded.positions, embedded.cause, strict=True)]),
    ):
        distances = [
            nearest(crystal, r.smiles, own) for (crystal, r), own in zip(pairs, sets, strict=True)
        ]
        result[name] = {}
        for k in lowest_of:
            best = np.array([own[:k].min(initial=np.inf) for own in distances])
            result[name][str(k)] = {
                "mean_rmsd": float(best[np.isfinite(best)].mean()),
                "median_rmsd": float(np.median(best)),
                "recovered_percent": {
                    str(limit): float(100 * np.mean(best < limit)) for limit in RECOVERED
                },
                "without": int(np.isinf(best).sum()),
                "nearest": [round(float(d), 2) for d in best if np.isfinite(d)],
            }
    return result
