"""Molecules for a page: drawn flat as SVG, and as mol blocks for the viewer in space."""

from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem.rdDepictor import Compute2DCoords

from mlff_core.tables import Tables

try:
    from rdkit.Chem.Draw import rdMolDraw2D
except ImportError:  # a server without X11's libraries (libXrender): a page without drawings
    rdMolDraw2D = None  # type: ignore[assignment]

#: Size of a drawing in pixels.
SIZE = (260, 180)
#: Larger molecules are named, not drawn: the drawing would be a ball of wool.
MOST_ATOMS = 150


def drawing(smiles: str | None) -> str | None:
    """A molecule as an SVG element; None if it is unreadable, too large, or nothing draws here."""
    if rdMolDraw2D is None or not smiles or len(smiles) > 4000:
        return None
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        sane = mol is not None
        if mol is None:
            mol = Chem.MolFromSmiles(smiles, sanitize=False)  # what was wrong is to be seen
            if mol is not None:
                mol.UpdatePropertyCache(strict=False)
        if mol is None or not 0 < mol.GetNumAtoms() <= MOST_ATOMS:
            return None
        try:
            for atom in mol.GetAtoms():
                atom.SetAtomMapNum(0)
            if sane:
                mol = rdMolDraw2D.PrepareMolForDrawing(mol)
            else:
                Compute2DCoords(mol)
            drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
            options: Any = drawer.drawOptions()  # the stub errs
            options.clearBackground = False
            options.prepareMolsBeforeDrawing = False
            options.fixedBondLength = 22
            drawer.DrawMolecule(mol)
            drawer.FinishDrawing()
        except (ValueError, RuntimeError):
            return None
    text: str = drawer.GetDrawingText()
    # The header of a file has no place in a page, and the page scales its drawings.
    body = text[text.index("<svg") :]
    return body.replace(
        f"width='{SIZE[0]}px' height='{SIZE[1]}px'", 'class="molecule" role="img"', 1
    )


def in_space(tables: Tables, keys: list[tuple[int, int]], most: int) -> list[dict[str, Any]]:
    """The lowest conformers of some molecules, for the viewer.

    Args:
        tables: Of the run.
        keys: Record and variant of each.
        most: Conformers of a molecule.

    Returns:
        Of each molecule its name, its SMILES and its conformers: energy above the best in kcal/mol
        and a mol block, lowest first.
    """
    import polars as pl

    if not keys:
        return []
    wanted = pl.any_horizontal(
        [(pl.col("record") == record) & (pl.col("variant") == variant) for record, variant in keys]
    )
    found = []
    for mol in tables.mols(wanted):
        conformers = sorted(
            mol.GetConformers(), key=lambda c: c.GetDoubleProp("relative_energy_kcal_mol")
        )
        found.append(
            {
                "name": mol.GetProp("_Name"),
                "smiles": mol.GetProp("smiles"),
                "conformers": [
                    {
                        "conformer": c.GetIntProp("conformer"),
                        "energy": round(c.GetDoubleProp("relative_energy_kcal_mol"), 2),
                        "block": Chem.MolToMolBlock(mol, confId=c.GetId()),
                    }
                    for c in conformers[:most]
                ],
            }
        )
    return found
