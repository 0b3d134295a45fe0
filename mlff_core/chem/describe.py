"""Columns of the table `molecules` that depend on the bonds alone."""

from rdkit import Chem
from rdkit.Chem import QED, rdMolDescriptors

from mlff_core.chem.molecule import PreparedMolecule


def describe(molecule: PreparedMolecule, mol: Chem.Mol) -> None:
    """Fill the columns that depend on the bonds alone."""
    molecule.formula = rdMolDescriptors.CalcMolFormula(mol)
    molecule.charge = Chem.GetFormalCharge(mol)
    molecule.n_rotatable_bonds = rdMolDescriptors.CalcNumRotatableBonds(mol)
    molecule.mol_weight = rdMolDescriptors._CalcMolWt(mol)
    molecule.clogp = rdMolDescriptors.CalcCrippenDescriptors(mol)[0]
    molecule.tpsa = rdMolDescriptors.CalcTPSA(mol)
    molecule.qed = _qed(
        mol, molecule.mol_weight, molecule.clogp, molecule.tpsa, molecule.n_rotatable_bonds
    )


def _qed(mol: Chem.Mol, mol_weight: float, clogp: float, tpsa: float, n_rotatable: int) -> float:
    """QED as `rdkit.Chem.QED.qed` gives it, without computing again what is known."""
    aromatic = Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings)
    return QED.qed(
        mol,
        qedProperties=QED.QEDproperties(
            MW=mol_weight,
            ALOGP=clogp,
            HBA=sum(len(mol.GetSubstructMatches(pattern)) for pattern in QED.Acceptors),
            HBD=rdMolDescriptors.CalcNumHBD(mol),
            PSA=tpsa,
            ROTB=n_rotatable,
            AROM=len(Chem.GetSSSR(aromatic)),
            ALERTS=sum(mol.HasSubstructMatch(alert) for alert in QED.StructuralAlerts),
        ),
    )
