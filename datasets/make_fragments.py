"""Cut small molecules out of those of a table, each around one bond that turns.

    python datasets/make_fragments.py TABLE.parquet FRAGMENTS.parquet [--n 45000] [--seed 9]
        [--recipe FILE]

In a whole molecule the energy of a torsion is a small part of what a student sees; here the barrier
is most of it. A fragment has the two atoms of the bond, all their neighbours, what stands beside
the bond on a ring, and of all these whole rings and whole groups; hydrogens take the place of the
rest. Formal charges stay; stereo is dropped, so that no mirror image counts as another fragment and
every isomer may be embedded. Half of the fragments are looked at in another protonation state
besides (`mlff_core.distill.protomers`).

TABLE has the column `smiles`. FRAGMENTS has `smiles`, `charge` in e, `n_atoms`, hydrogens counted,
and `kind`, which is "fragment" in each row: in a table of several lists a recipe tells them by it
(`mlff_core.distill.kinds`). Two in five of them are charged, as many cations as anions; there are
fewer where no more are found. What the recipe holds out by connectivity is left out, as are
fragments of molecules that are held out, and so is what its training does not take
(`mlff_core.distill.molecules`).
"""

import argparse
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem

from mlff_core.distill.molecules import (
    Choice,
    MoleculesConfig,
    choose,
    quiet_rdkit,
    smiles_charge,
)
from mlff_core.distill.protomers import protomer
from mlff_core.distill.recipe import read_recipe
from mlff_core.store import whole_file

#: A bond that turns: single, in no ring, nothing linear or with hydrogens alone on either side.
TURNS: Final = Chem.MolFromSmarts("[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]")
#: Bonds that are not cut.
WHOLE: Final = tuple(
    Chem.MolFromSmarts(pattern)
    for pattern in (
        "*@*",  # rings, with what is fused to them
        "*!-*",
        "[D1]~*",  # halogens, methyl groups
        "[#7]~[#7]",
        "[!#6]~[#6]=[!#6]",  # amides, amidines
    )
)
#: Elements with a bond that may be cut on their side. Others keep all their neighbours, so that no
#: ether or ester becomes an alcohol or an acid, and S, P, Si and B stay what they are.
MAY_END: Final = (6, 7)
#: Fewest and most atoms of a fragment, hydrogens counted.
MIN_ATOMS: Final = 12
MAX_ATOMS: Final = 40
#: The share of fragments that are charged, and of those looked at in another state besides.
CHARGED: Final = 0.4
OTHER_STATE: Final = 0.5
#: What a fragment is called in the column `kind`.
KIND: Final = "fragment"


def around(mol: Chem.Mol, bond: tuple[int, int]) -> set[int]:
    """Atoms of the fragment around a bond that turns, given by its two atoms."""
    kept = set(bond)
    for end in bond:
        for beside in mol.GetAtomWithIdx(end).GetNeighbors():
            kept.add(beside.GetIdx())
            if mol.GetBondBetweenAtoms(end, beside.GetIdx()).IsInRing():
                # Groups in ortho are what hinders the turn.
                kept.update(atom.GetIdx() for atom in beside.GetNeighbors())
    whole = [match[:2] for pattern in WHOLE for match in mol.GetSubstructMatches(pattern)]
    n_before = 0
    while n_before < len(kept):
        n_before = len(kept)
        for two in whole:
            if not kept.isdisjoint(two):
                kept.update(two)
        for index in tuple(kept):
            atom = mol.GetAtomWithIdx(index)
            if atom.GetAtomicNum() not in MAY_END:
                kept.update(beside.GetIdx() for beside in atom.GetNeighbors())
    return kept


def cut_out(mol: Chem.Mol, kept: set[int]) -> str:
    """Canonical SMILES of some connected atoms, a hydrogen in place of each other that they bind.

    Only single bonds in no ring may lead out of them. There is no stereo.
    """
    part = Chem.RWMol(mol)
    Chem.RemoveStereochemistry(part)
    part.BeginBatchEdit()
    for atom in mol.GetAtoms():
        if atom.GetIdx() in kept:
            continue
        if any(beside.GetIdx() in kept for beside in atom.GetNeighbors()):
            part.ReplaceAtom(atom.GetIdx(), Chem.Atom(1))
        else:
            part.RemoveAtom(atom.GetIdx())
    part.CommitBatchEdit()
    # Read again, hydrogens are no atoms any more.
    return Chem.CanonSmiles(Chem.MolToSmiles(part))


def fragment(smiles: str, rng: random.Random) -> str | None:
    """A fragment of a molecule around one of its bonds that turn, if it has any."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    bonds = mol.GetSubstructMatches(TURNS)
    if not bonds:
        return None
    kept = around(mol, rng.choice(bonds))
    return cut_out(mol, kept) if len(kept) < MAX_ATOMS else None


def sign(smiles: str) -> int:
    """Of the total charge: -1, 0 or 1."""
    charge = smiles_charge(smiles)
    return (charge > 0) - (charge < 0)


def to_learn_from(smiles: str, config: MoleculesConfig) -> Choice | None:
    """The molecule of a SMILES, if a training takes it and it is not held out."""
    choice = choose(smiles, config)
    return choice if isinstance(choice, Choice) and not choice.held_out else None


def chosen(smiles: list[str], n: int, config: MoleculesConfig, seed: int) -> list[Choice]:
    """Fragments, `n` at most, in a random order, without any twice."""
    quiet_rdkit()
    small = replace(config, max_atoms=min(MAX_ATOMS, config.max_atoms))
    rng = random.Random(seed)
    order = list(dict.fromkeys(smiles))
    rng.shuffle(order)
    ions = round(n * CHARGED / 2)
    room = {-1: ions, 0: n - 2 * ions, 1: ions}
    found: dict[str, Choice] = {}
    for whole in order:
        if not any(room.values()):
            break
        text = fragment(whole, rng)
        if text is None:
            continue
        states = [text]
        if rng.random() < OTHER_STATE:
            states.append(protomer(text, rng, max_charge=1, max_sites=1) or text)
        wanted = [state for state in states if room[sign(state)] and state not in found]
        # InChI says who is held out, and is what costs. Some protons count as connectivity: a
        # state is held out with its fragment, too.
        if not wanted or not to_learn_from(whole, config) or not to_learn_from(text, small):
            continue
        for state in wanted:
            choice = to_learn_from(state, small)
            # A state may be the fragment itself, or take the last room after it.
            if choice and choice.n_atoms >= MIN_ATOMS and state not in found and room[sign(state)]:
                found[state] = choice
                room[sign(state)] -= 1
    rows = list(found.values())
    rng.shuffle(rows)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=45_000)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--recipe", type=Path, default=Path("datasets/recipes/charges.toml"))
    arguments = parser.parse_args()
    table = pq.read_table(arguments.table, columns=["smiles"])["smiles"].to_pylist()
    rows = chosen(table, arguments.n, read_recipe(arguments.recipe).molecules, arguments.seed)
    columns = {
        "smiles": [row.smiles for row in rows],
        "charge": pa.array([row.charge for row in rows], pa.int8()),
        "n_atoms": pa.array([row.n_atoms for row in rows], pa.int16()),
        "kind": [KIND] * len(rows),
    }
    with whole_file(arguments.out) as stream:
        pq.write_table(pa.table(columns), stream, compression="zstd")
    for charge, count in sorted(Counter(row.charge for row in rows).items()):
        print(f"{charge:+16} {count:8,}")


if __name__ == "__main__":
    main()
