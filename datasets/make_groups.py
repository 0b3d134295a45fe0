"""Make small molecules of every charged or unusual group: the group with what it may be bound to.

    python datasets/make_groups.py GROUPS.parquet [--n 17000] [--seed 8] [--recipe FILE]

A group is a line of `groups.txt`, a SMILES with places that are filled at random from
`substituents.txt`. How many molecules it gives depends on its places, charges and kind; there are
fewer where no more are found. GROUPS has the columns `smiles` and `kind`, the heading above the
group; a molecule that several groups make has the kind of the first. What the recipe holds out by
connectivity is left out, and so is what its training does not take (`mlff_core.distill.molecules`).
"""

import argparse
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem

from mlff_core.distill.molecules import Choice, MoleculesConfig, choose, quiet_rdkit
from mlff_core.distill.recipe import read_recipe
from mlff_core.store import whole_file

PLACE: Final = re.compile(r"\{[AE]?\}")
#: A bracket atom, or the number of a ring.
_BRACKET_OR_RING: Final = re.compile(r"\[[^]]*\]|[1-9]")
#: The share of places for any substituent that get a small one.
SMALL: Final = 0.55
#: Most atoms of a molecule, hydrogens counted.
MAX_ATOMS: Final = 70
#: Molecules that are tried for each one wanted.
TRIES: Final = 4
#: Kinds that give more molecules a group than the others, and how many times as many.
MORE: Final = {
    "hydrogen bond": 2,
    "hypervalent": 3,
    "quinoid": 2,
    "SF5": 2,
    "several groups": 6,
}


def read_lists(file: Path) -> dict[str, list[str]]:
    """The SMILES of a file below each of its headings, which begin with `==`; `#` is a comment."""
    lists: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        if line.startswith("== "):
            below = lists[line.removeprefix("== ")] = []
        elif line and not line.startswith("#"):
            below.append(line)
    return lists


GROUPS: Final = read_lists(Path(__file__).with_name("groups.txt"))
SUBSTITUENTS: Final = read_lists(Path(__file__).with_name("substituents.txt"))


def with_own_rings(text: str) -> str:
    """A substituent whose ring numbers are none of a group: %71 for 1."""
    return _BRACKET_OR_RING.sub(lambda m: m[0] if m[0][0] == "[" else f"%7{m[0]}", text)


def filled(group: str, rng: random.Random) -> str:
    """A group with a substituent in each of its places."""

    def substituent(place: re.Match[str]) -> str:
        any_size = "small" if rng.random() < SMALL else "large"
        name = {"{A}": "aryl", "{E}": "end"}.get(place[0], any_size)
        return with_own_rings(rng.choice(SUBSTITUENTS[name]))

    return PLACE.sub(substituent, group)


def weight(group: str, kind: str) -> int:
    """How many molecules of a group are wanted, to the scale of the others."""
    places = len(PLACE.findall(group))
    if not places:
        return 1
    return (8 + 14 * min(2, places) + 16 * bool(re.search(r"[+-]\]", group))) * MORE.get(kind, 1)


def chosen(n: int, config: MoleculesConfig, seed: int) -> list[tuple[str, str]]:
    """SMILES and their kinds, about `n` at most, in a random order, without any twice."""
    quiet_rdkit()
    config = replace(config, max_atoms=min(MAX_ATOMS, config.max_atoms))
    rng = random.Random(seed)
    weights = {(g, kind): weight(g, kind) for kind, groups in GROUPS.items() for g in groups}
    scale = n / sum(weights.values())
    found: dict[str, str] = {}
    # Whole molecules come first: other groups may make them, too.
    for group, kind in sorted(weights, key=lambda row: bool(PLACE.search(row[0]))):
        room = max(1, round(scale * weights[group, kind]))
        for _ in range(TRIES * room):
            text = Chem.CanonSmiles(filled(group, rng))
            if text in found:
                continue
            choice = choose(text, config)
            if isinstance(choice, Choice) and not choice.held_out:
                found[text] = kind
                room -= 1
                if not room:
                    break
    rows = list(found.items())
    rng.shuffle(rows)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=17_000)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--recipe", type=Path, default=Path("datasets/recipes/charges.toml"))
    arguments = parser.parse_args()
    rows = chosen(arguments.n, read_recipe(arguments.recipe).molecules, arguments.seed)
    columns = {"smiles": [text for text, _ in rows], "kind": [kind for _, kind in rows]}
    with whole_file(arguments.out) as stream:
        pq.write_table(pa.table(columns), stream, compression="zstd")
    for kind, count in Counter(columns["kind"]).most_common():
        print(f"{kind:16} {count:8,}")


if __name__ == "__main__":
    main()
