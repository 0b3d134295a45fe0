"""Molecules of a library with RDKit's own ETKDGv3 conformers, and kinds of molecules that are hard.

Both embedders start from the same isomer: where the SMILES leaves stereo open, ETKDG's first
conformer decides it, for both.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

from mlff_core.chem.constraints import (
    ContradictingBoundsError,
    EmbeddingConstraints,
    embedding_constraints,
)
from mlff_core.chem.graph import Graph
from mlff_core.chem.molecule import PreparedMolecule
from mlff_core.chem.prepare import store_topology
from mlff_core.chem.topology import Topology

#: Cages of one kind each: fused, bridged, strained.
CAGES = [
    "C1C2CC3CC1CC(C2)C3", "C12C3C4C1C5C2C3C45", "C1CC2CCC1C2", "C1CC2CCC1CC2", "C1CN2CCC1CC2",
    "C1N2CN3CN1CN(C2)C3", "OC12CC3CC(C1)CC(C3)C2", "C1C2CC1C2", "C1CC2(CC1)C1CCC2C1",
    "CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2", "C1=CC2CCC1C2", "O=C1C2CC3CC(C2)CC1C3",
    "C1C2C3CC4C1C(C2)C34",
    "NC12CC3CC(CC(C3)C1)C2", "C1CC2C3CCC(C3)C2C1", "C1CC23CCC1(CC2)CC3", "C1OC2COC1CO2",
    "C1CN2CCN1CC2", "CN1[C@H]2CC[C@@H]1C[C@@H](O)C2", "OC(=O)C12C3C4C1C5C2C3C45",
]  # fmt: skip
#: Patterns of what is charged or has more than eight electrons around an atom.
HYPERVALENT = Chem.MolFromSmarts("[$([#16X4]),$([#15X4]),$([#16X6]),$([#15X5]),$([#17X4])]")
CHARGE_OF_CHARGED = 2
RESIDUES = "AVLSTFYDENQKRWMPHIG"


@dataclass
class Reference:
    """A molecule, and what RDKit's ETKDGv3 made of it.

    Attributes:
        smiles: As the library has it.
        numbers: Atomic numbers [n_atoms].
        charge: Total charge.
        topology: What its geometries are judged against.
        constraints: What the other embedder gets.
        positions: ETKDG's conformers, Å [n_conformers, n_atoms, 3].
        seconds: ETKDG's time for the first.
    """

    smiles: str
    numbers: NDArray[np.int8]
    charge: int
    topology: Topology
    constraints: EmbeddingConstraints
    positions: NDArray[np.float32]
    seconds: float


@dataclass
class Missing:
    """A molecule that ETKDG did not embed, or RDKit not read."""

    smiles: str
    why: str
    constraints: EmbeddingConstraints | None = field(default=None)
    numbers: NDArray[np.int8] | None = field(default=None)


def reference(task: tuple[str, int]) -> Reference | Missing:
    """One molecule with so many of ETKDG's conformers, at most 10 s for the first, 60 for all."""
    smiles, n_conformers = task
    RDLogger.DisableLog("rdApp.*")
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or "." in smiles or abs(Chem.GetFormalCharge(mol)) > 3:
        return Missing(smiles, "not for the model")
    mol = Chem.AddHs(mol)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed, parameters.timeout = 7, 10
    begin = time.perf_counter()
    rdDistGeom.EmbedMolecule(mol, parameters)
    seconds = time.perf_counter() - begin
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int8)
    if not mol.GetNumConformers():
        try:
            return Missing(smiles, "not embedded by ETKDG", embedding_constraints(mol), numbers)
        except ContradictingBoundsError as error:
            return Missing(smiles, str(error))
    Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
    if n_conformers > 1:
        parameters.timeout = 60
        rdDistGeom.EmbedMultipleConfs(mol, n_conformers, parameters)
    positions = np.array([c.GetPositions() for c in mol.GetConformers()], np.float32)
    mol.RemoveAllConformers()
    stored = PreparedMolecule(0, None, smiles)
    stored.smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    store_topology(stored, Graph(mol))
    topology = Topology(stored.numbers, stored.bonds, stored.chirality, stored.double_bonds)
    charge = Chem.GetFormalCharge(mol)
    return Reference(
        smiles, numbers, charge, topology, embedding_constraints(mol), positions, seconds
    )


def hard_kinds(library: list[str], n: int) -> dict[str, list[str]]:
    """SMILES of kinds that distance geometry finds hard, at most n of each."""
    rng = random.Random(5)

    def some(test: Callable[[Chem.Mol], bool]) -> list[str]:
        found: list[str] = []
        for smiles in library:
            mol = Chem.MolFromSmiles(smiles)
            if mol is not None and test(mol):
                found.append(smiles)
            if len(found) == n:
                break
        return found

    def peptide(length: int) -> Chem.Mol:
        return Chem.MolFromSequence("".join(rng.choice(RESIDUES) for _ in range(length)))

    def cyclic(length: int) -> str:
        """A chain of L-residues, closed head to tail."""
        sides = ("C", "C(C)C", "CC(C)C", "CO", "Cc2ccccc2", "[H]")
        residues = [f"N[C@@H]({rng.choice(sides)})C(=O)" for _ in range(length)]
        text = "".join(residues).replace("([H])", "").replace("[C@@H]C", "CC")
        return Chem.CanonSmiles("N1" + text[1:-5] + "C1=O")

    return {
        "macrocycles": [cyclic(rng.randint(4, 7)) for _ in range(n)],
        "cages": CAGES[:n],
        "peptides": [Chem.MolToSmiles(peptide(rng.randint(3, 8))) for _ in range(n)],
        "charged": some(lambda mol: abs(Chem.GetFormalCharge(mol)) >= CHARGE_OF_CHARGED),
        "hypervalent": some(lambda mol: mol.HasSubstructMatch(HYPERVALENT)),
    }
