"""Choose from a table of SMILES what a student with partial charges has to learn.

    python datasets/make_hard.py TABLE.parquet HARD.parquet [--n 110000] [--seed 25]

TABLE has the column `smiles`. Two fifths of what is chosen are like the table; the others are kinds
that it has little of and on which the errors are largest: several charged groups, charges on sp2
nitrogen, sulfur and carbon (azolides, sulfonamidates, dyes, fused cations), rare elements,
hypervalent sulfur and phosphorus, bonds between two nitrogens or oxygens, and small molecules. To
these come molecules of a few atoms that are written here, which no table holds, and records of two
molecules, ions most of them, that are placed apart (`max_parts` of the recipe). HARD has the column
`kind` besides. Nothing is held out here: the recipe's split does that, by connectivity, and makes
other protonation states of what it takes, which stay on their molecule's side
(`mlff_core.distill.molecules`).
"""

import argparse
import random
import re
from collections import Counter
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlff_core.distill.molecules import UNUSUAL_CHARGE, smiles_charge
from mlff_core.store import whole_file

#: Nitro groups, whose charges are none.
_NITRO: Final = re.compile(r"\[N\+\]\(=O\)\[O-\]|\[O-\]\[N\+\]\(=O\)|O=\[N\+\]\(\[O-\]\)")
_CHARGE: Final = re.compile(r"[+-]\d?\]")
#: A bracket, a two-letter symbol or a letter: one heavy atom each, hydrogen aside.
_ATOM: Final = re.compile(r"\[(?!H\])[^\]]+\]|Br|Cl|[BCNOPSFIbcnops*]")
#: Most heavy atoms of a small molecule.
_SMALL: Final = 7
_CATION: Final = r"\[n\+|\[[oOsS]H?\+|=\[N\w*\+\](?!=)"

#: Kinds, the rarest first: what their SMILES look like, and their share of what is chosen.
KINDS: Final[dict[str, tuple[re.Pattern[str], float]]] = {
    "hypervalent": (re.compile(r"S\(F\)\(F\)\(?F|P\(F\)\(F\)\(?F|P-\]\(F"), 0.01),
    "O-O": (re.compile(r"(?<!\[)OO(?!\+)"), 0.015),
    "rare element": (re.compile(r"B(?!r)|\[Si|\[si|P|p(?!\d*\])|I|\[[Aa]s|\[[Ss]e"), 0.09),
    "fused cation": (re.compile(_CATION), 0.07),
    "other charge": (re.compile(UNUSUAL_CHARGE), 0.10),
    "N-N": (re.compile(r"N\(?N|N=N|\[NH?\d?\+?\]N"), 0.02),
}  # fmt: skip
#: The share of molecules with several charged groups, with one, and of few atoms.
SEVERAL, ONE, SMALL = 0.13, 0.13, 0.04

#: The share of records of two molecules, and the most heavy atoms of either.
TWO, IN_TWO = 0.03, 12

#: What no table holds.
WRITTEN: Final = re.findall(
    r"\S+",
    """
[H][H] F Cl Br I FF ClCl BrBr II FCl FBr FI ClBr ClI BrI N#N [C-]#[O+] O S [SeH2] N P [AsH3] C
[SiH4] B [BH4-] [NH4+] [OH3+] [PH4+] [OH-] [SH-] [NH2-] OO NN NO N=N C#N [C-]#N O=C=O S=C=S O=C=S
N=[N+]=[N-] [N-]=[N+]=[N-] FN(F)F ClN(Cl)Cl FOF ClOCl OF OCl OBr OI [O-]Cl [O-]Br O=S=O O=S(=O)=O
FS(F)(F)F FS(F)(F)(F)(F)F F[P-](F)(F)(F)(F)F FP(F)F FP(F)(F)(F)F ClP(Cl)Cl ClP(Cl)(Cl)(Cl)Cl
BrP(Br)Br IP(I)I FB(F)F F[B-](F)(F)F ClB(Cl)Cl OB(O)O O[B-](O)(O)O F[Si](F)(F)F Cl[Si](Cl)(Cl)Cl
O[Si](O)(O)O O=P(Cl)(Cl)Cl O=P(F)(F)F O=S(Cl)Cl O=S(=O)(Cl)Cl O=S(=O)(F)F FS(F)(=O)(F)F O=S(=O)(O)O
O=S(=O)([O-])O O=S(=O)([O-])[O-] O=P(O)(O)O O=P([O-])(O)O O=P([O-])([O-])O O=[N+]([O-])O
O=[N+]([O-])[O-] O=NO O=N[O-] F[As](F)F Cl[As](Cl)Cl F[As-](F)(F)(F)(F)F O=[Se]=O O=[As](O)(O)O
C[SeH] C[AsH2] CP C[SiH3] CB CF CCl CBr CI CO CS CN CC C=C C#C C=O C=S C=N CO[O-] COO COOC CNNC
CN=NC CNN CON CSSC CSCl CSC FC(F)(F)F ClC(Cl)(Cl)Cl BrC(Br)Br IC(I)I ICI FC(F)(F)S(F)(F)(F)(F)F
CS(F)(F)(F)(F)F FS(F)(F)(F)(F)Cl FS(F)(F)(F)(F)c1ccccc1 FS(F)(F)(F)(F)c1ccncc1 CCS(F)(F)(F)(F)F
OS(F)(F)(F)(F)F NS(F)(F)(F)(F)F F[P-](F)(F)(F)(F)C F[P-](F)(F)(F)(F)C(F)(F)F
F[P-](F)(F)(F)(F)c1ccccc1 CP(F)(F)(F)F CP(F)(F)(F)C C[S+](C)C C[P+](C)(C)C C[N+](C)(C)C C[NH3+]
C[OH2+] C[SH2+] C=[NH2+] C=[OH+] C[O-] C[S-] C[NH-] O=C[O-] CC(=O)[O-] CC(=O)OO OOO NNN [O-][N+]#N
[N-]=[N+]=C [C-]#[N+]C O=C=N N=C=S [N-]=C=O [N-]=C=S O=C(O)O O=C([O-])O NC=O NC(N)=O NC(=[NH2+])N
OP(O)O O=PO CS(C)=O CS(C)(=O)=O CS(=O)(=O)[O-] CS(=O)[O-] CS(=O)(=O)[NH-] CS(N)(=O)=O c1c[nH]cn1
c1c[n-]cn1 c1c[nH]c[nH+]1 c1nn[nH]n1 c1nn[n-]n1 c1cc[n-]c1 FI(F)F ClI(Cl)c1ccccc1 Ic1ccccc1
""",
)


def n_heavy(text: str) -> int:
    """Atoms of a SMILES that are no bare hydrogens."""
    return len(_ATOM.findall(text))


def kind_of(text: str) -> str:
    """The kind of a molecule, by how it is written."""
    text = _NITRO.sub("*", text)
    for name, (pattern, _) in KINDS.items():
        if pattern.search(text):
            return name
    if n_heavy(text) <= _SMALL:
        return "small"
    groups = len(_CHARGE.findall(text))
    return "common" if not groups else "one charge" if groups == 1 else "several charges"


def of_two(smiles: list[str], n: int, rng: random.Random) -> list[str]:
    """Records of two small molecules: six in ten a cation and an anion, two in ten like ions, and
    the others an ion and a molecule without a charge."""
    small = [text for text in smiles if n_heavy(text) <= IN_TWO]
    by_sign: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for text in [*small, *WRITTEN]:
        charge = smiles_charge(text)
        if abs(charge) < 2:
            by_sign[charge].append(text)
    found = []
    for _ in range(n if all(by_sign.values()) else 0):
        sign, drawn = rng.choice((-1, 1)), rng.random()
        other = -sign if drawn < 0.6 else sign if drawn < 0.8 else 0
        found.append(f"{rng.choice(by_sign[sign])}.{rng.choice(by_sign[other])}")
    return found


def chosen(smiles: list[str], n: int, seed: int) -> list[tuple[str, str]]:
    """SMILES and their kinds, in a random order, without any twice."""
    shares = {name: share for name, (_, share) in KINDS.items()}
    shares |= {"several charges": SEVERAL, "one charge": ONE, "small": SMALL}
    rng = random.Random(seed)
    order = list(dict.fromkeys(smiles))
    rng.shuffle(order)
    room = {name: round(n * share) for name, share in shares.items()}
    room["common"] = n - sum(room.values())
    found = {text: "written here" for text in WRITTEN}
    for text in order:
        kind = kind_of(text)
        if room[kind] and text not in found:
            found[text] = kind
            room[kind] -= 1
    found |= dict.fromkeys(of_two(order, round(n * TWO), rng), "two apart")
    rows = list(found.items())
    rng.shuffle(rows)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=110_000)
    parser.add_argument("--seed", type=int, default=25)
    arguments = parser.parse_args()
    table = pq.read_table(arguments.table, columns=["smiles"])["smiles"].to_pylist()
    rows = chosen(table, arguments.n, arguments.seed)
    columns = {"smiles": [text for text, _ in rows], "kind": [kind for _, kind in rows]}
    with whole_file(arguments.out) as stream:
        pq.write_table(pa.table(columns), stream, compression="zstd")
    for kind, count in Counter(columns["kind"]).most_common():
        print(f"{kind:16} {count:8,}")


if __name__ == "__main__":
    main()
