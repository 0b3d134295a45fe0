"""What the training of a model saw: charged atoms in their surroundings, charges together.

Energies of charged molecules are learnt from examples. A table beside the weights counts, over the
molecules that a training chose from, the surroundings of charged atoms and of phosphorus, the
combinations of charged groups, and the elements. `datasets/make_seen.py` writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from rdkit import Chem

from mlff_core.chem.atoms import atoms_of

#: Bonds from an atom to the end of what counts as its surroundings.
RADIUS: Final = 2
#: Characters of a model's sha256 that are in the name of its table.
_DIGITS: Final = 16
_PHOSPHORUS: Final = 15
_CARBON: Final = 6


@dataclass(frozen=True)
class Seen:
    """Counts over the molecules that a training chose from, each molecule once.

    Attributes:
        model_sha256: Of the model's tensors.
        n_molecules: How many were counted.
        elements: Molecules with an element, by atomic number; those with common ones left out.
        combinations: Molecules with so many positive and negative charged groups.
        environments: Molecules with a charged atom or phosphorus in such surroundings; what fewer
            have than the table holds is not in it.
    """

    model_sha256: str
    n_molecules: int
    elements: Mapping[int, int]
    combinations: Mapping[tuple[int, int], int]
    environments: Mapping[str, int]

    def to_json(self) -> str:
        """The table, one entry a line: two versions of it can be compared."""
        pairs = {f"{p}+ {n}-": times for (p, n), times in sorted(self.combinations.items())}
        table = {
            "model_sha256": self.model_sha256,
            "n_molecules": self.n_molecules,
            "elements": {str(z): n for z, n in sorted(self.elements.items())},
            "combinations": pairs,
            "environments": dict(sorted(self.environments.items())),
        }
        return json.dumps(table, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Seen":
        """What `to_json` wrote."""
        table: dict[str, Any] = json.loads(text)
        combinations = {}
        for pair, times in table["combinations"].items():
            p, n = pair.replace("+", "").replace("-", "").split()
            combinations[int(p), int(n)] = times
        return cls(
            table["model_sha256"],
            table["n_molecules"],
            {int(z): n for z, n in table["elements"].items()},
            combinations,
            table["environments"],
        )


def name_of_table(model_sha256: str) -> str:
    """Name of the file in `mlff_core/weights` that tells what a model saw."""
    return f"seen-{model_sha256[:_DIGITS]}.json"


@cache
def seen_by(model_sha256: str | None) -> Seen | None:
    """What a shipped model saw; None of one without a table, and where no model is named."""
    if not model_sha256:
        return None
    file = resources.files("mlff_core") / "weights" / name_of_table(model_sha256)
    if not file.is_file():
        return None
    seen = Seen.from_json(file.read_text(encoding="utf-8"))
    return seen if seen.model_sha256 == model_sha256 else None


def charged_groups(mol: Chem.Mol) -> tuple[int, int]:
    """Atoms with a positive and with a negative charge that no neighbour's charge makes up for."""
    positive = negative = 0
    for atom in atoms_of(mol):
        charge = atom.GetFormalCharge()
        if charge and not any(charge * n.GetFormalCharge() < 0 for n in atom.GetNeighbors()):
            positive += charge > 0
            negative += charge < 0
    return positive, negative


def environments(mol: Chem.Mol) -> set[str]:
    """Surroundings of each charged atom and of each phosphorus, as SMILES that begin with it.

    The charge of an amidinium is that of its carbon's neighbours all together: where a charged atom
    has a double bond to carbon, the surroundings of that carbon count as well.
    """
    centers = set()
    for atom in atoms_of(mol):
        if atom.GetFormalCharge() or atom.GetAtomicNum() == _PHOSPHORUS:
            centers.add(atom.GetIdx())
            for bond in atom.GetBonds():
                other = bond.GetOtherAtom(atom)
                if bond.GetBondType() == Chem.BondType.DOUBLE and other.GetAtomicNum() == _CARBON:
                    centers.add(other.GetIdx())
    return {_environment(mol, center) for center in centers}


def _environment(mol: Chem.Mol, center: int) -> str:
    bonds = list(Chem.FindAtomEnvironmentOfRadiusN(mol, RADIUS, center, enforceSize=False))
    atoms = {center}
    for k in bonds:
        bond = mol.GetBondWithIdx(k)
        atoms |= {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    return Chem.MolFragmentToSmiles(
        mol, list(atoms), bondsToUse=bonds, rootedAtAtom=center, isomericSmiles=False
    )
