"""What the tests of the embedder share: constraints of SMILES, and a schedule for few atoms."""

import numpy as np
from rdkit import Chem

from mlff_core.chem.constraints import EmbeddingConstraints, embedding_constraints
from mlff_core.embedding.schedule import Stage, schedule

#: Enough for a dozen atoms, and soon over.
SHORT = schedule(
    (
        Stage(120, 0.3, 0.08, fourth=0.1, chiral=1.0, flat=0.2, four_dimensional=True, stretch=1),
        Stage(80, 0.08, 0.02, fourth=1.0, chiral=0.3, flat=0.06, four_dimensional=True),
        Stage(150, 0.04, 0.001, near=20.0, far=2.0, chiral=0.3, flat=0.6, torsion=0.02),
    )
)


def molecule(smiles: str) -> Chem.Mol:
    """With all hydrogens."""
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def constraints(smiles: str) -> EmbeddingConstraints:
    """Of a SMILES."""
    return embedding_constraints(molecule(smiles))


def numbers(smiles: str) -> np.ndarray:
    """Atomic numbers of a SMILES, hydrogens included."""
    return np.array([atom.GetAtomicNum() for atom in molecule(smiles).GetAtoms()])
