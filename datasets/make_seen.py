"""Count what the trainings of the shipped models chose from: the tables behind the trust flags.

    python datasets/make_seen.py TABLE.parquet [--recipe FILE]

TABLE has the training's SMILES in the column `smiles`. The molecules are those that the recipe's
choice takes from it (`mlff_core.distill.molecules`): the rare ones and the first of the others,
without those held out by connectivity. Other protonation states and substituted elements, which
stages of the training added at random, are counted as the table has them: where they are all that
was seen of a charge, the errors are large all the same.

InChI says who is held out, and is what costs: only molecules with something that few have are
asked, of everything else enough remains. Writes mlff_core/weights/seen-SHA256.json for each model.
"""

import argparse
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from rdkit import Chem, rdBase

from mlff_core.chem.seen import Seen, charged_groups, environments, name_of_table
from mlff_core.chem.trust import RARE_ENVIRONMENT
from mlff_core.distill.molecules import MoleculesConfig, is_held_out, smiles_charge
from mlff_core.distill.recipe import read_recipe
from mlff_core.models.reference import SHORT_NAMES, refer_to_model, shipped_folder
from mlff_core.store import write_whole

#: A charge, or phosphorus.
WATCHED = re.compile(r"[+-]\d*\]|[Pp]")
#: How SMILES write the elements that may be rare.
ELEMENTS = {
    5: r"B(?!r)|b", 14: r"\[Si|\[si", 15: r"P|p", 33: r"\[As|\[as", 34: r"\[Se|\[se", 53: r"I",
}  # fmt: skip
#: Molecules from which on those held out among them change nothing.
SURE = 8 * RARE_ENVIRONMENT


def chosen(smiles: list[str], config: MoleculesConfig) -> list[str]:
    """The molecules that a training takes of a table, as the table has them."""
    rare = re.compile(config.rare)
    found: list[str] = []
    common = 0
    for text in smiles:
        if rare.search(text) or abs(smiles_charge(text)) >= config.rare_charge:
            found.append(text)
        elif common < config.common:
            found.append(text)
            common += 1
    return found


@cache
def look(text: str) -> tuple[tuple[int, int], tuple[str, ...]] | None:
    """Charged groups and surroundings in a molecule; None if it is none."""
    mol = Chem.MolFromSmiles(text)
    if mol is None or mol.GetNumAtoms() == 0:
        return None
    return charged_groups(mol), tuple(sorted(environments(mol)))


def count(smiles: list[str], config: MoleculesConfig, model_sha256: str) -> Seen:
    """The table of a model whose training chose from these."""
    met: Counter[str] = Counter()
    groups: Counter[tuple[int, int]] = Counter()
    watched = [text for text in smiles if WATCHED.search(text)]
    groups[0, 0] = len(smiles) - len(watched)
    for text in watched:
        if (found := look(text)) is not None:
            groups[found[0]] += 1
            met.update(found[1])
    few = {environment for environment, times in met.items() if times < SURE}
    for text in watched:
        if (found := look(text)) is not None and not few.isdisjoint(found[1]):
            key = Chem.MolToInchiKey(Chem.MolFromSmiles(text))[:14]
            if is_held_out(key, config.held_out_share, config.salt):
                met.subtract(few.intersection(found[1]))
    elements = {z: sum(bool(re.search(p, text)) for text in smiles) for z, p in ELEMENTS.items()}
    enough = {e: times for e, times in met.items() if times >= RARE_ENVIRONMENT}
    return Seen(model_sha256, len(smiles), elements, dict(groups), enough)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path("datasets/recipes/student.toml"))
    arguments = parser.parse_args()
    rdBase.DisableLog("rdApp.*")
    config = read_recipe(arguments.recipe).molecules
    table = pq.read_table(arguments.table, columns=["smiles"])["smiles"].to_pylist()
    taken = chosen(table, config)
    for model in SHORT_NAMES:
        sha256 = refer_to_model(model).sha256
        seen = count(taken, config, sha256)
        file = shipped_folder() / name_of_table(sha256)
        text = seen.to_json()
        write_whole(file, text.encode())
        print(f"{file}: {seen.n_molecules:,} molecules, {len(seen.environments):,} surroundings, "
              f"{len(text) / 1000:.0f} kB")  # fmt: skip


if __name__ == "__main__":
    main()
