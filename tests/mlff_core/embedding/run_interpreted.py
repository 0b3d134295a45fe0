"""Runs the embedder's kernel in Triton's interpreter and writes what came out.

A process of its own, because Triton decides when it is imported whether it interprets.

    TRITON_INTERPRET=1 python run_interpreted.py OUT.pt
"""

import sys

import torch
from rdkit import Chem

from mlff_core.chem.constraints import embedding_constraints
from mlff_core.embedding import minimise_triton
from mlff_core.embedding.packing import Packed, pack
from mlff_core.embedding.plain import starting_coordinates
from mlff_core.embedding.schedule import Stage, schedule

#: Terms of every kind: a stereocentre, flat groups, a double bond with sides, torsions, one atom,
#: a macrocycle.
SMILES = ("CC(=O)O", "C[C@H](N)F", "F/C=C/C=O", "O", "[H][H]", "S1SSSSSSSS1")
#: Few steps, all weights in play: four dimensions, then three.
STEPS = schedule(
    (
        Stage(3, 0.3, 0.1, 1, 1, 0.1, 1, 0.2, torsion=0.3, four_dimensional=True, stretch=1.0),
        Stage(3, 0.04, 0.01, near=20.0, far=2.0, chiral=0.3, flat=0.6, torsion=0.05),
    )
)


def case() -> tuple[torch.Tensor, Packed, torch.Tensor, torch.Tensor]:
    """Arguments of `minimise`: several molecules, one of them with two conformers."""
    molecules = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
    packed = pack([embedding_constraints(molecule) for molecule in molecules], "cpu")
    molecule = torch.tensor([0, 1, 1, 2, 3, 4, 5])
    seed, number = 7919 * molecule, torch.tensor([0, 0, 1, 0, 0, 0, 0])
    return starting_coordinates(packed, molecule, seed, number, 0), packed, molecule, STEPS


def main(out: str) -> None:
    """All conformers at once, with terms in several pieces, and the last alone."""
    x, packed, molecule, steps = case()
    minimise_triton.TERMS = dict.fromkeys(minimise_triton.TERMS, 4)
    minimise_triton.TILES = dict.fromkeys(minimise_triton.TILES, (8, 1))
    together = minimise_triton.minimise(x, packed, molecule, steps)
    alone = minimise_triton.minimise(x[3:4], packed, molecule[3:4], steps)
    torch.save({"together": together, "alone": alone}, out)


if __name__ == "__main__":
    main(sys.argv[1])
