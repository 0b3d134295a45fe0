"""Count in the training's table how many molecules have the surroundings of each held-out atom.

    python datasets/count_environments.py TABLE.parquet HELD-OUT.parquet OUT.parquet

Both have SMILES in the column `smiles`. The surroundings of an atom are its element, its hydrogens,
charge and bonds, and the same of its neighbours (Morgan's environments of radius 1). A molecule of
the table counts once for each; one whose connectivity the recipe holds out does not. OUT has the
columns `smiles` and `counts`, a list with a number for each atom, in the order of the SMILES:
`benchmarks/accuracy environments` reads it.
"""

import argparse
from collections import Counter
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from mlff_core.distill.molecules import is_held_out
from mlff_core.distill.recipe import read_recipe
from mlff_core.store import whole_file

#: Bonds from an atom to the end of its surroundings.
RADIUS = 1
#: Where fewer molecules have some surroundings, InChI says which of these are held out; it costs
#: ten times as much as all else, and elsewhere one in fifty changes nothing.
SURE = 200

_GENERATOR = rdFingerprintGenerator.GetMorganGenerator(
    radius=RADIUS, includeRedundantEnvironments=True
)


def environments(mol: Chem.Mol) -> list[int]:
    """A number for the surroundings of each atom."""
    found = rdFingerprintGenerator.AdditionalOutput()
    found.AllocateBitInfoMap()
    _GENERATOR.GetSparseCountFingerprint(mol, additionalOutput=found)
    widest = [(-1, 0)] * mol.GetNumAtoms()
    for number, places in found.GetBitInfoMap().items():
        for atom, radius in places:
            widest[atom] = max(widest[atom], (radius, number))
    return [number for _, number in widest]


def counted(table: list[str], asked: set[int], salt: str, share: float) -> Counter[int]:
    """Molecules of a table with each of some surroundings, those held out left out."""
    counts: Counter[int] = Counter()
    having: dict[int, list[str]] = {}
    for text in table:
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            continue
        for number in asked.intersection(environments(mol)):
            counts[number] += 1
            if counts[number] < SURE:
                having.setdefault(number, []).append(text)
    for number, texts in having.items():
        if counts[number] < SURE:
            counts[number] -= sum(_is_held_out(text, salt, share) for text in texts)
    return counts


@cache
def _is_held_out(text: str, salt: str, share: float) -> bool:
    key = Chem.MolToInchiKey(Chem.MolFromSmiles(text))[:14]
    return is_held_out(key, share, salt)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--recipe", type=Path, default=Path(__file__).parent / "recipes/student.toml"
    )
    arguments = parser.parse_args()
    rdBase.DisableLog("rdApp.*")
    config = read_recipe(arguments.recipe).molecules
    table, held_out = (
        pq.read_table(file, columns=["smiles"])["smiles"].to_pylist()
        for file in (arguments.table, arguments.held_out)
    )
    own = {text: environments(Chem.MolFromSmiles(text)) for text in held_out}
    counts = counted(
        table, {n for numbers in own.values() for n in numbers}, config.salt, config.held_out_share
    )
    rows = [[counts[number] for number in own[text]] for text in held_out]
    columns = {"smiles": held_out, "counts": pa.array(rows, pa.list_(pa.int32()))}
    with whole_file(arguments.out) as stream:
        pq.write_table(pa.table(columns), stream, compression="zstd")
    print(f"{len(table):,} molecules, {len(counts):,} surroundings of {len(held_out):,} molecules")


if __name__ == "__main__":
    main()
